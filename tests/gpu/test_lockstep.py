"""Tests of lockstep on a CUDA device: streams, pinned memory, the mixing kernel.

python -m pytest tests/gpu/test_lockstep.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sampling import DualPrompt, DualSampler, EngineConfig, ModelConfig, SamplingConfig
from sampling.engine.host_copy import HostCopy, on_device
from sampling.engine.lockstep import LockstepEngine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SAMPLING = SamplingConfig(max_tokens=48, seed=5)
ROWS = [DualPrompt(f"the teacher is asked {index}", f"theta is asked {index}", id=str(index)) for index in range(40)]


def load(pair: tuple[Path, Path], *, ahead: bool) -> DualSampler:
    # float32: batches differ, and bfloat16 would flip draws
    teacher, theta = (
        ModelConfig(model=str(path), max_model_len=256, dtype="float32", kv_cache_memory_bytes=256 << 20)
        for path in pair
    )
    engine = EngineConfig(max_num_seqs=16, async_scheduling=ahead, torch_compile=False)  # compiling takes minutes
    return DualSampler(teacher, theta, engine=engine)


@pytest.fixture(scope="module")
def ahead(tiny_pair: tuple[Path, Path]) -> Iterator[DualSampler]:
    with load(tiny_pair, ahead=True) as sampler:
        yield sampler


def lockstep(sampler: DualSampler) -> LockstepEngine:
    assert isinstance(sampler._engine, LockstepEngine)
    return sampler._engine


def test_the_kernel_agrees_with_plain_torch(ahead: DualSampler) -> None:
    assert lockstep(ahead)._sampler._fused


def test_two_steps_in_flight_equal_one(ahead: DualSampler, tiny_pair: tuple[Path, Path]) -> None:
    found = [out.token_ids for out in ahead.generate(ROWS, SAMPLING, progress=False)]
    with load(tiny_pair, ahead=False) as sampler:
        assert [out.token_ids for out in sampler.generate(ROWS, SAMPLING, progress=False)] == found


def test_no_launch_waits_for_the_device(ahead: DualSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises on any synchronisation inside a launch, vLLM's part included."""
    engine = lockstep(ahead)
    ahead.generate(ROWS[:2], SAMPLING, progress=False)  # warm-up
    launch = engine._launch

    def checked() -> bool:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return launch()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(engine, "_launch", checked)
    assert len(ahead.generate(ROWS, SAMPLING, progress=False)) == len(ROWS)


def test_parts_are_measured_on_the_device(ahead: DualSampler) -> None:
    before = ahead.stats.as_dict()
    ahead.generate(ROWS, SAMPLING, progress=False)
    spent = {name: value - before[name] for name, value in ahead.stats.as_dict().items()}
    parts = [spent[name] for name in ("theta_s", "teacher_s", "mixing_s")]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= spent["total_s"] * 1.05


def test_copies_to_the_device_and_back() -> None:
    values = list(range(1000))
    on_gpu = on_device(values, torch.device("cuda"))
    (back,) = HostCopy(on_gpu * 2).wait()
    assert back.tolist() == [2 * value for value in values]
    assert back.is_pinned()
