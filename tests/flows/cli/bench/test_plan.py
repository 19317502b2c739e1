"""Tests of the plan of a benchmark."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.cli.bench.plan import plan
from flows.demo.demo import MODELS
from sampling.errors import ConfigurationError
from tests.flows.cli.bench.conftest import Arguments
from tests.tiny import make_model


def test_all_modes_of_a_number_of_rows_differ_in_their_mode_alone(arguments: Arguments) -> None:
    jobs = plan(arguments(rows=[4, 8], max_tokens=100, prompt_tokens=30, http=True))
    modes = ["teacher alone", "theta alone", "lockstep, balanced", "lockstep, exploratory"]
    assert [(name, job.rows) for name, job in jobs] == [
        *((name, rows) for rows in (4, 8) for name in modes),
        ("HTTP, balanced", 4),
        ("HTTP, balanced", 8),
    ]
    for rows in (4, 8):
        alike = {job.model_dump_json(exclude={"mode", "preset"}) for _, job in jobs if job.rows == rows}
        assert len(alike) == 1
    (_, job), *_ = jobs
    assert job.theta.max_model_len == job.teacher.max_model_len == 256  # 130 tokens, in whole KV blocks
    assert job.num_ids == 440  # of the tokenizer; the models have more columns


def test_a_context_is_never_longer_than_the_models_own(arguments: Arguments, tmp_path: Path) -> None:
    folder = str(make_model(tmp_path, seed=1, max_position_embeddings=40))
    (_, job), *_ = plan(arguments(teacher=folder, theta=folder))
    assert job.teacher.max_model_len == 40


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"rows": [4, 0]}, r"max_num_seqs: 0 is not allowed: .* greater than or equal to 1"),
        ({"rows": []}, "give at least one number of rows"),
        ({"max_tokens": 0}, "max_tokens: 0 is not allowed"),
        ({"prompt_tokens": -1}, "prompt_tokens: -1 is not allowed"),
        ({"preset": "bold"}, "preset: 'bold' is not allowed"),
        ({"dtype": "int3"}, "dtype: 'int3' is not allowed"),
        ({"max_tokens": 5000}, r"prompt_tokens 8 \+ max_tokens 5000 exceed theta's context of 4096"),
        ({"teacher": "/nowhere", "theta": "/nowhere"}, "no model folder '/nowhere'"),
        ({"teacher": "/nowhere"}, "give both --teacher and --theta"),
        ({"theta_url": "http://127.0.0.1:1"}, "give both --teacher-url and --theta-url"),
        ({"http": True, "dummy_weights": True}, "leave --http out"),
    ],
)
def test_what_cannot_be_measured_is_an_error_before_anything_is_loaded(
    replaced: dict[str, Any], message: str, arguments: Arguments
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan(arguments(**replaced))


def test_a_model_without_weights_needs_dummy_ones(arguments: Arguments, tmp_path: Path) -> None:
    shutil.copytree(MODELS / "theta", tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    bare = str(tmp_path / "bare")
    with pytest.raises(ConfigurationError, match=r"bare holds no \*\.safetensors; .* --dummy-weights"):
        plan(arguments(teacher=bare, theta=bare))
    assert [job.theta.has_weights for _, job in plan(arguments(teacher=bare, theta=bare, dummy_weights=True))] == [
        False
    ] * 4
