"""Provenance of well-formed and of malformed manifests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.validations.made_up import MANIFEST, SPEED
from validations.report.provenance import MAX_SPEEDS, Provenance

STRANGE: list[dict[str, Any] | None] = [
    None, {},
    {"speed": 3, "slowest_shards": "x", "quarantine": [1], "config": "no", "engine": None, "libraries": [],
     "source": 5},
    {"speed": [[1], None, ["a", "b"], [10, True], [10**400, 1], [float("nan"), 2]],
     "slowest_shards": [None, {}, {"shard": []}],
     "config": {"models": {"theta": 7, "teacher": []}, "validation": {"kl_error_max": "1"}}, "num_rows": 10**400},
]  # fmt: skip


def test_what_a_manifest_says() -> None:
    made = Provenance(MANIFEST)
    assert made.speeds() == [(end, rate) for end, rate in SPEED]
    assert made.slowest() == [[4, 50, 9800, 391.2, 2], [1, 50, 9100, 302.0, 1]]
    assert made.reasons() == [["prompt_too_long", 3], ["template", 1]]
    assert json.loads(made.config()) == MANIFEST["config"]
    pairs = dict(made.pairs())
    assert pairs["model: theta"] == "Qwen/Qwen2.5-1.5B"
    assert (pairs["num_rows"], pairs["libraries: vllm"], pairs["source: files"]) == (400, "0.26.0", '["train.jsonl"]')


@pytest.mark.parametrize("manifest", STRANGE)
def test_strange_manifests(manifest: Mapping[str, Any] | None) -> None:
    made = Provenance(manifest)
    assert made.speeds() == made.reasons() == []
    assert all(value is None or isinstance(value, str) for shard in made.slowest() for value in shard)
    assert all(isinstance(value, str | int | float) for _, value in made.pairs())
    made.config().encode()


def test_many_speeds_are_thinned() -> None:
    points = Provenance({"speed": [[second, 1.0] for second in range(5 * MAX_SPEEDS, 0, -1)]}).speeds()
    assert points == [(float(second), 1.0) for second in range(1, 5 * MAX_SPEEDS, 5)]
