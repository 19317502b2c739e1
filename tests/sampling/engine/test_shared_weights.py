"""Tests of self-distillation: one model reads both prompts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sampling import DualPrompt, DualSampler, EngineConfig, MixtureConfig, ModelConfig, SamplingConfig
from sampling.engine.shared_weights import SharedWeightsView
from tests.sampling.conftest import MAX_MODEL_LEN, NUM_IDS, lockstep
from tests.sampling.reference import Reference
from tests.sampling.test_sampler import EOS_ID, prompts
from tests.tiny import make_adapter

ENGINE = EngineConfig(max_num_seqs=6, max_num_batched_tokens=MAX_MODEL_LEN)


@pytest.fixture(scope="module", params=[False, True], ids=["one step", "two steps in flight"])
def shared(request: pytest.FixtureRequest, tiny_pair: tuple[Path, Path]) -> Iterator[DualSampler]:
    """Return a sampler of the teacher with itself."""
    model = ModelConfig(model=str(tiny_pair[0]), max_model_len=MAX_MODEL_LEN)
    engine = ENGINE.model_copy(update={"async_scheduling": request.param})
    with DualSampler(model, model, engine=engine) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def separate(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[DualSampler]:
    """Return a sampler of the teacher with a copy of its folder: the weights are loaded twice."""
    other = tmp_path_factory.mktemp("copy") / "teacher"
    shutil.copytree(tiny_pair[0], other)
    teacher, theta = (ModelConfig(model=str(path), max_model_len=MAX_MODEL_LEN) for path in (tiny_pair[0], other))
    with DualSampler(teacher, theta, engine=ENGINE) as loaded:
        yield loaded


@pytest.mark.slow
def test_the_weights_are_loaded_once(shared: DualSampler, separate: DualSampler) -> None:
    theta, teacher = lockstep(shared).theta, lockstep(shared).teacher
    assert isinstance(theta, SharedWeightsView)
    assert isinstance(teacher, SharedWeightsView)
    assert theta._shared.engine is teacher._shared.engine
    assert not isinstance(lockstep(separate).theta, SharedWeightsView)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampling",
    [SamplingConfig(max_tokens=20, temperature=0), SamplingConfig(n=2, max_tokens=80, temperature=2.0, seed=3)],
    ids=["greedy", "drawn"],
)
def test_tokens_equal_those_of_two_copies(sampling: SamplingConfig, shared: DualSampler, separate: DualSampler) -> None:
    """24 rows, 6 at once: a batch of both prompts moves logits by 1e-6; the seed is fixed."""
    one, two = (sampler.generate(prompts(), sampling, progress=False) for sampler in (shared, separate))
    assert [(out.id, out.sample_idx, out.token_ids) for out in one] == [
        (out.id, out.sample_idx, out.token_ids) for out in two
    ]
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_allclose(ours.diagnostics.js, theirs.diagnostics.js, atol=1e-4)
        assert ours.num_theta_prompt_tokens == theirs.num_theta_prompt_tokens


@pytest.mark.slow
def test_greedy_tokens_equal_a_transformers_reference(shared: DualSampler, tiny_pair: tuple[Path, Path]) -> None:
    reference = Reference(tiny_pair[0], tiny_pair[0], NUM_IDS, EOS_ID)
    config = MixtureConfig.preset("balanced")
    outs = shared.generate(prompts(8), SamplingConfig(max_tokens=8, temperature=0), mixture=config, progress=False)
    for row, out in zip(prompts(8), outs, strict=True):
        teacher, theta = (tuple(shared.teacher_tokenizer(text).input_ids) for text in (row.teacher, row.theta))
        assert list(out.token_ids) == reference.greedy(theta, teacher, config, 8), row.id


@pytest.mark.slow
def test_equal_prompts_have_no_divergence(shared: DualSampler) -> None:
    """Two equal distributions: JS is 0, and nothing falls back."""
    rows = [DualPrompt(row.theta, row.theta, id=row.id) for row in prompts(9)]
    for out in shared.generate(rows, SamplingConfig(max_tokens=12, seed=1), progress=False):
        diagnostics = out.diagnostics
        np.testing.assert_allclose(diagnostics.js, 0.0, atol=1e-6)
        np.testing.assert_allclose(diagnostics.logprob_theta, diagnostics.logprob_teacher, atol=1e-5)
        assert set(diagnostics.modes) <= {"forced", "mixed"}


def test_a_shared_cache_is_not_overcommitted(tiny_pair: tuple[Path, Path]) -> None:
    """A cache of 2 MiB, 31 blocks: seven rows of four blocks at once, not sixteen; all finish."""
    model = ModelConfig(model=str(tiny_pair[0]), max_model_len=MAX_MODEL_LEN, kv_cache_memory_bytes=1 << 20)
    rows = [DualPrompt("t" * 150, "s" * 120, id=str(index)) for index in range(24)]
    with DualSampler(model, model, engine=EngineConfig(max_num_seqs=16)) as sampler:
        outs = sampler.generate(rows, SamplingConfig(max_tokens=90, temperature=0), progress=False)
        engine = lockstep(sampler)
        blocks = engine.theta.num_blocks_for(120 + 90) + engine.teacher.num_blocks_for(150 + 90)
        assert blocks * 16 > engine.theta.num_blocks
    assert len({out.id for out in outs}) == 24


@pytest.mark.slow
def test_an_adapter_applies_only_to_its_own_prompts(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Theta is the teacher with an adapter: shared weights draw the same tokens as separate ones."""
    adapter = make_adapter(tmp_path / "adapter", tiny_pair[0])
    shutil.copytree(tiny_pair[0], tmp_path / "other")
    teacher = ModelConfig(model=str(tiny_pair[0]), max_model_len=MAX_MODEL_LEN)
    theta = teacher.model_copy(update={"lora": str(adapter)})
    found = []
    for student in (theta, theta.model_copy(update={"model": str(tmp_path / "other")})):
        with DualSampler(teacher, student, engine=ENGINE) as sampler:
            assert isinstance(lockstep(sampler).theta, SharedWeightsView) == (student is theta)
            same = [DualPrompt(row.theta, row.theta, id=row.id) for row in prompts(8)]
            found.append(sampler.generate(same, SamplingConfig(max_tokens=10, temperature=0), progress=False))
    for one, two in zip(*found, strict=True):
        assert one.token_ids == two.token_ids
        for name in ("logprob_theta", "logprob_teacher"):
            ours, theirs = getattr(one.diagnostics, name), getattr(two.diagnostics, name)
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert (one.diagnostics.js > 1e-3).any()
