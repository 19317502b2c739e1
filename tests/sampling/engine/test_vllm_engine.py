"""Tests of the start-up check of vLLM's internals, and of models that it cannot load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from sampling import DualSampler, EngineConfig, ModelConfig, SamplingConfig
from sampling.engine.vllm_engine import VllmEngine, _internal
from sampling.errors import EngineError, LockstepError, ModelError, UnsupportedVllmError
from sampling.models.vllm_options import device_type
from tests.sampling.conftest import theta_engine


def test_missing_internals_are_reported_with_the_tested_versions() -> None:
    core = SimpleNamespace(scheduler=SimpleNamespace())
    assert _internal(core, "scheduler") is core.scheduler
    with pytest.raises(UnsupportedVllmError, match=r"has no SimpleNamespace\.block_size.*0\.26\.0 and 0\.32\.0"):
        _internal(core, "scheduler.block_size")


def test_a_vllm_without_the_replaced_sampler_is_refused(sampler: DualSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = type(theta_engine(sampler)._runner)
    monkeypatch.delattr(theta_engine(sampler)._runner, "_sample")
    monkeypatch.delattr(runner.__mro__[1], "_sample")
    with pytest.raises(UnsupportedVllmError, match="_sample"):
        theta_engine(sampler)._attach()


def test_an_unscheduled_row_raises(sampler: DualSampler) -> None:
    engine = theta_engine(sampler)
    with pytest.raises(LockstepError, match="scheduled 0 of 1 rows"):
        engine.forward(1)


def test_a_model_that_vllm_cannot_load_raises_one_line(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_pair[0], broken)
    config = json.loads((broken / "config.json").read_text())
    config["architectures"] = ["NoSuchModelForCausalLM"]
    config["model_type"] = "qwen3"
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        VllmEngine(ModelConfig(model=str(broken)), EngineConfig(max_num_seqs=2), 64, 16 << 20)
    assert "\n" not in str(caught.value)
    assert str(broken) in str(caught.value)


@pytest.mark.slow
def test_closing_one_sampler_leaves_another_working(tiny_pair: tuple[Path, Path], sampler: DualSampler) -> None:
    """vLLM's own shutdown destroys the process groups that all engines of a process share."""
    sampling = SamplingConfig(max_tokens=6, seed=1)
    before = sampler.generate(["one", "two"], sampling, progress=False)
    teacher, theta = (ModelConfig(model=str(path), max_model_len=64) for path in tiny_pair)
    other = DualSampler(teacher, theta, engine=EngineConfig(max_num_seqs=2))
    other.generate(["one"], sampling, progress=False)
    other.close()
    other.close()  # a second call does nothing
    with pytest.raises(EngineError, match="closed"):
        other.generate(["one"], sampling, progress=False)
    after = sampler.generate(["one", "two"], sampling, progress=False)
    assert [out.token_ids for out in after] == [out.token_ids for out in before]


def test_the_device_is_one_that_vllm_has() -> None:
    assert device_type() in ("cpu", "cuda")
