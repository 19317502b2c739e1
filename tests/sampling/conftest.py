"""Fixtures of the sampling tests: samplers on real vLLM, which take seconds to load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sampling import DualSampler, EngineConfig, ModelConfig
from sampling.engine.lockstep import LockstepEngine
from sampling.engine.vllm_engine import VllmEngine

MAX_MODEL_LEN = 256
NUM_IDS = 257


def lockstep(sampler: DualSampler) -> LockstepEngine:
    """Return the engine of a sampler whose models are loaded, not served."""
    assert isinstance(sampler._engine, LockstepEngine)
    return sampler._engine


def theta_engine(sampler: DualSampler) -> VllmEngine:
    """Return theta's vLLM engine, loaded into this process."""
    engine = lockstep(sampler).theta
    assert isinstance(engine, VllmEngine)
    return engine


@pytest.fixture(scope="session")
def sampler(tiny_pair: tuple[Path, Path]) -> Iterator[DualSampler]:
    """Return a sampler of both tiny models: 6 rows at once, 256 prompt tokens per step."""
    teacher, theta = (ModelConfig(model=str(path), max_model_len=MAX_MODEL_LEN) for path in tiny_pair)
    engine = EngineConfig(max_num_seqs=6, max_num_batched_tokens=MAX_MODEL_LEN)
    with DualSampler(teacher, theta, engine=engine) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def wide_sampler(tiny_pair: tuple[Path, Path]) -> Iterator[DualSampler]:
    """Return a sampler of the same models, 256 rows at once."""
    teacher, theta = (ModelConfig(model=str(path), max_model_len=64) for path in tiny_pair)
    with DualSampler(teacher, theta, engine=EngineConfig(max_num_seqs=256)) as loaded:
        yield loaded
