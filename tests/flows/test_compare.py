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


@pytest.mark.parametrize("command", ["validate", "compare"])
def test_a_name_does_not_write_to_the_terminal(run: Run, dataset: Path, command: str) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    name = "evil\x1b]0;x\x1b\\\x1b[2J\x9b31m\u202e\nwarning: none"
    (dataset / "manifest.json").write_text(json.dumps({**manifest, "name": name}))
    _, out, _ = run(command, *[dataset] * (1 + (command == "compare")))
    assert "evil" in out
    assert not set("\x1b\x9b\u202e").intersection(out)
    assert not [line for line in out.splitlines() if line.startswith("warning")]


@pytest.mark.slow
def test_the_flow_returns_the_table(dataset: Path, prefect_server: str) -> None:
    state = compare_datasets(str(dataset), str(dataset), return_state=True)
    rows = state.result()
    assert {"figure": "num_rows", "A": 24, "B": 24, "B − A": 0} in rows
    assert json.loads(artifacts_of(state)["comparison"]) == rows
