"""Tests of the `compare` command, and of its flow on a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.compare import compare_datasets
from tests.flows.commands import Run, artifacts_of, the_line
from tests.flows.conftest import write_dataset


def test_metrics_are_side_by_side(run: Run, dataset: Path, tmp_path: Path) -> None:
    other, page = write_dataset(tmp_path / "other", "v2", num_rows=12), tmp_path / "page.html"
    code, out, err = run("compare", dataset, other, "-o", page)
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert lines["num_rows"] == ["24", "12", "-12"]
    assert lines["eos_rate"] == ["1", "1", "0"]
    assert lines["fallback_rate_at_position"] == ["–", "–", "–"]
    text = page.read_text()
    assert "set v1" in text
    assert "set v2" in text


def test_a_missing_dataset_is_found_before_the_other_is_read(run: Run, dataset: Path) -> None:
    code, out, err = run("compare", dataset, "nowhere")
    assert (code, out) == (2, "")
    assert "nowhere" in the_line(err)


@pytest.mark.slow
def test_the_flow_returns_the_table(dataset: Path, prefect_server: str) -> None:
    state = compare_datasets(str(dataset), str(dataset), return_state=True)
    rows = state.result()
    assert {"figure": "num_rows", "A": 24, "B": 24, "B − A": 0} in rows
    assert json.loads(artifacts_of(state)["comparison"]) == rows
