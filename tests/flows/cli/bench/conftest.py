"""Fixtures of small benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli.bench.plan import Job
from flows.demo.demo import MODELS
from sampling.config import EngineConfig, ModelConfig

Arguments = Callable[..., argparse.Namespace]


@pytest.fixture
def arguments(tmp_path: Path) -> Arguments:
    """The command line's arguments with some replaced."""

    def make(**replaced: Any) -> argparse.Namespace:
        given = {
            "teacher": None,
            "theta": None,
            "rows": [4],
            "max_tokens": 8,
            "prompt_tokens": 8,
            "preset": "balanced",
            "dummy_weights": False,
            "dtype": "auto",
            "gpu_memory_utilization": 0.9,
            "no_compile": False,
            "http": False,
            "theta_url": None,
            "teacher_url": None,
            "output": str(tmp_path / "bench"),
            "debug": False,
        }
        return argparse.Namespace(**{**given, **replaced})

    return make


@pytest.fixture
def job() -> Job:
    """The demo's theta alone, 2 rows."""
    theta, teacher = (ModelConfig(model=str(MODELS / name), max_model_len=128) for name in ("theta", "teacher"))
    engine = EngineConfig(max_num_seqs=2)
    return Job(mode="theta", theta=theta, teacher=teacher, engine=engine, num_ids=440, prompt_tokens=4, max_tokens=4)
