"""Tests of the assignment of models to GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sampling import ModelConfig
from sampling.errors import CapacityError, ConfigurationError
from sampling.workers.placement import Placement, check_split, place


def folder_of(path: Path, **values: Any) -> Path:
    """Return a model folder with only a config.json."""
    path.mkdir(parents=True, exist_ok=True)
    shapes = {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 96, "num_hidden_layers": 1}
    (path / "config.json").write_text(json.dumps({"model_type": "qwen3", "hidden_size": 64, **shapes, **values}))
    return path


@pytest.mark.parametrize(
    ("theta", "teacher", "expected"),
    [
        ({}, {}, ((0,), (0,))),
        ({"devices": (1,)}, {}, ((1,), (0,))),
        ({}, {"devices": (3,)}, ((0,), (3,))),
        ({}, {"tensor_parallel_size": 4}, ((0,), (1, 2, 3, 4))),
        ({"tensor_parallel_size": 2}, {}, ((0, 1), (2,))),
        ({"tensor_parallel_size": 2}, {"devices": (0,)}, ((1, 2), (0,))),
        ({"tensor_parallel_size": 2}, {"tensor_parallel_size": 2, "devices": (1, 3)}, ((0, 2), (1, 3))),
        ({"tensor_parallel_size": 2, "devices": (0, 1)}, {"tensor_parallel_size": 2, "devices": (0, 1)}, ((0, 1),) * 2),
    ],
)
def test_models_share_gpu_0_or_take_disjoint_ones(
    theta: dict[str, Any], teacher: dict[str, Any], expected: tuple[tuple[int, ...], ...], tmp_path: Path
) -> None:
    model = str(folder_of(tmp_path))
    assert place(ModelConfig(model=model, **theta), ModelConfig(model=model, **teacher), 8) == Placement(*expected)


def test_shared_weights_take_the_gpus_of_one_model(tmp_path: Path) -> None:
    model = ModelConfig(model=str(folder_of(tmp_path)), tensor_parallel_size=2)
    assert place(model, model, 2, shared_weights=True) == Placement((0, 1), (0, 1))
    assert place(model, model, 4) == Placement((0, 1), (2, 3))


def test_too_few_gpus_are_refused_with_both_numbers(tmp_path: Path) -> None:
    model = str(folder_of(tmp_path))
    teacher = ModelConfig(model=model, tensor_parallel_size=4)
    with pytest.raises(CapacityError, match=r"GPUs 0 with the teacher on 1, 2, 3, 4 takes 5 GPUs, and 4 can be seen"):
        place(ModelConfig(model=model), teacher, 4)
    assert place(ModelConfig(model=model), teacher, None).teacher == (1, 2, 3, 4)  # processes on a CPU: any number


@pytest.mark.parametrize(
    ("size", "shapes", "message"),
    [
        (3, {}, "8 attention heads, which tensor_parallel_size 3 does not divide"),
        (4, {"intermediate_size": 98}, "98 columns between its layers"),
        (2, {"num_key_value_heads": 3}, "3 key-value heads, which"),
        (4, {"num_key_value_heads": 3}, "3 key-value heads, of which tensor_parallel_size 4 is no multiple"),
    ],
)
def test_an_impossible_split_is_refused_before_loading(
    size: int, shapes: dict[str, int], message: str, tmp_path: Path
) -> None:
    model = ModelConfig(model=str(folder_of(tmp_path, **shapes)), tensor_parallel_size=size)
    with pytest.raises(ConfigurationError, match=message):
        place(ModelConfig(model=model.model), model, 8)


def test_fewer_key_value_heads_than_gpus_are_replicated(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, num_key_value_heads=2)
    check_split("theta", ModelConfig(model=str(folder), tensor_parallel_size=4))


@pytest.mark.parametrize(
    "values",
    [
        {"tensor_parallel_size": 0},
        {"devices": (0, 1)},
        {"devices": ()},
        {"tensor_parallel_size": 2, "devices": (1, 1)},
        {"devices": (-1,)},
        {"tensor_parallel_size": 2, "url": "http://127.0.0.1:8000"},
    ],
)
def test_contradictory_devices_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelConfig(model="any", **values)
