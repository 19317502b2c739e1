"""The start-up check of vLLM's insides, and models that it cannot load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from sampling import DualSampler, EngineConfig, ModelConfig, SamplingConfig
from sampling.engine.vllm_engine import VllmEngine, _inside
from sampling.errors import EngineError, LockstepError, ModelError, UnsupportedVllmError
from sampling.models.vllm_options import device_type
from tests.sampling.conftest import theta_engine


def test_missing_insides_name_this_vllm_and_those_tested() -> None:
    core = SimpleNamespace(scheduler=SimpleNamespace())
    assert _inside(core, "scheduler") is core.scheduler
    with pytest.raises(UnsupportedVllmError, match=r"has no SimpleNamespace\.block_size.*0\.26\.0 and 0\.32\.0"):
        _inside(core, "scheduler.block_size")


def test_a_vllm_without_the_replaced_sampler_is_refused(sampler: DualSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = type(theta_engine(sampler)._runner)
    monkeypatch.delattr(theta_engine(sampler)._runner, "_sample")
    monkeypatch.delattr(runner.__mro__[1], "_sample")
    with pytest.raises(UnsupportedVllmError, match="_sample"):
        theta_engine(sampler)._attach()


def test_a_row_that_vllm_does_not_schedule_is_noticed(sampler: DualSampler) -> None:
    engine = theta_engine(sampler)
    with pytest.raises(LockstepError, match="scheduled 0 of 1 rows"):
        engine.forward(1)


def test_a_model_that_vllm_cannot_load_is_one_line(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_pair[0], broken)
    facts = json.loads((broken / "config.json").read_text())
    facts["architectures"] = ["NoSuchModelForCausalLM"]
    facts["model_type"] = "qwen3"
    (broken / "config.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError) as caught:
        VllmEngine(ModelConfig(model=str(broken)), EngineConfig(max_num_seqs=2), 64, 16 << 20)
    assert "\n" not in str(caught.value)
    assert str(broken) in str(caught.value)


def test_closing_one_sampler_leaves_another_at_work(tiny_pair: tuple[Path, Path], sampler: DualSampler) -> None:
    """vLLM's own shutdown ends the process groups that all engines of a process share."""
    sampling = SamplingConfig(max_tokens=6, seed=1)
    before = sampler.generate(["one", "two"], sampling, progress=False)
    teacher, theta = (ModelConfig(model=str(path), max_model_len=64) for path in tiny_pair)
    other = DualSampler(teacher, theta, engine=EngineConfig(max_num_seqs=2))
    other.generate(["one"], sampling, progress=False)
    other.close()
    other.close()  # a second time is no error
    with pytest.raises(EngineError, match="closed"):
        other.generate(["one"], sampling, progress=False)
    after = sampler.generate(["one", "two"], sampling, progress=False)
    assert [out.token_ids for out in after] == [out.token_ids for out in before]


def test_the_device_is_one_that_vllm_has() -> None:
    assert device_type() in ("cpu", "cuda")
