"""Tests of the memory plan of models on different GPUs; test_engine.py tests loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampling import EngineConfig, ModelConfig
from sampling.models.memory import GIB, DeviceMemory, plan_memory
from sampling.workers import loading
from sampling.workers.loading import plan_caches
from sampling.workers.placement import Placement

ENGINE = EngineConfig(max_num_seqs=8, gpu_memory_utilization=0.5)
GPUS = tuple(DeviceMemory(total * GIB, total * GIB) for total in (80, 24, 40))


@pytest.fixture
def pair(tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> tuple[ModelConfig, ModelConfig]:
    """Return theta and the teacher, on a machine with three GPUs of different sizes."""
    monkeypatch.setattr(loading, "device_memory", lambda _, gpu: GPUS[gpu])
    return ModelConfig(model=str(tiny_pair[1])), ModelConfig(model=str(tiny_pair[0]))


def plan(pair: tuple[ModelConfig, ModelConfig], theta: tuple[int, ...], teacher: tuple[int, ...]) -> Any:
    return plan_caches(*pair, ENGINE, Placement(theta, teacher), "cuda", shared_weights=False)


def test_models_on_different_gpus_are_planned_separately(pair: tuple[ModelConfig, ModelConfig]) -> None:
    theta = plan_memory(pair[0], None, ENGINE, "cuda", memory=GPUS[1])
    teacher = plan_memory(None, pair[1], ENGINE, "cuda", memory=GPUS[0])
    assert plan(pair, (1,), (0,)) == (theta.theta_bytes, teacher.teacher_bytes)


def test_the_smallest_common_gpu_decides(
    pair: tuple[ModelConfig, ModelConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned_with: list[DeviceMemory] = []

    def planned(*models: ModelConfig, memory: DeviceMemory, shared: bool) -> Any:
        planned_with.append(memory)
        return plan_memory(*models, memory=memory, shared=shared)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "plan_memory", planned)
    both = plan_memory(*pair, ENGINE, "cuda", memory=GPUS[2])
    assert plan(pair, (0, 2), (2,)) == (both.theta_bytes, both.teacher_bytes)
    assert planned_with == [GPUS[2]]


def test_workers_on_a_cpu_share_its_memory(pair: tuple[ModelConfig, ModelConfig]) -> None:
    both = plan_memory(*pair, ENGINE, "cpu")
    split = pair[0].model_copy(update={"tensor_parallel_size": 2})
    caches = plan_caches(split, pair[1], ENGINE, Placement((1, 2), (0,)), "cpu", shared_weights=False)
    assert caches == (both.theta_bytes, both.teacher_bytes)  # one key-value head: replicated on both workers
