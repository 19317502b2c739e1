"""Tests of the `validate` command, and of its flow on a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.validate import validate_dataset
from sampling.errors import RefusedError
from tests.flows.commands import Run, artifacts_of, the_line
from tests.validations.tables import made_rows, to_table

UNKNOWN = "not judged: fallback_rate_at_position (no range of positions holds 100 tokens)"


def test_a_good_dataset_is_exit_code_0(run: Run, dataset: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    code, out, err = run("validate", dataset)
    assert (code, err) == (0, "")
    assert out.splitlines() == ["set v1: 44 passed, 0 failed, 1 not judged", UNKNOWN]
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before  # nothing is written


def test_the_limits_are_the_datasets_own_unless_others_are_given(run: Run, dataset: Path) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["config"]["validation"]["correct_rate_min"] = 1.0
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    assert run("validate", dataset)[0] == 0
    rows = made_rows(24)
    rows[0]["example"]["final_answer"] = "1"
    foreign = dataset.parent / "foreign.parquet"
    pq.write_table(to_table(rows), foreign)
    assert run("validate", foreign)[0] == 0  # the default asks for no right answers
    code, out, err = run("validate", foreign, "--set", "correct_rate_min=1")
    assert code == 3
    assert "expect_column_values_to_be_between(correct_rate): limit ≥ 1, value 0.958333" in the_line(err)
    assert "38 passed" not in out


def test_a_damaged_file_is_refused(run: Run, dataset: Path) -> None:
    path = next((dataset / "data").iterdir())
    pq.write_table(to_table(made_rows(23)), path)
    code, _, err = run("validate", dataset)
    assert code == 3
    assert "manifest.json lists" in the_line(err)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "nowhere is neither a folder nor a file; give a dataset's folder"),
        (["{empty}"], "holds no Parquet file"),
        (["{dataset}", "--set", "eos_rate=1"], "--set eos_rate=1: write it as name=value; limits: kl_error_max, "),
        (["{dataset}", "--set", "eos_rate_min=2"], "--set eos_rate_min=2: "),
        (["{dataset}", "--set", "severity.nothing=warn"], "nothing"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, dataset: Path, tmp_path: Path, argv: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = run("validate", *(arg.format(dataset=dataset, empty=tmp_path / "empty") for arg in argv))
    assert (code, out) == (2, "")
    assert message in the_line(err)


@pytest.mark.slow
def test_the_flow_shows_its_verdict(dataset: Path, prefect_server: str) -> None:
    """Its artifacts are on the server: verdict, figures, checks; a refusal is a failed run that has them too."""
    passed = validate_dataset(str(dataset), return_state=True)
    assert passed.is_completed()
    artifacts = artifacts_of(passed)
    assert set(artifacts) == {"set-v1-verdict", "set-v1-figures", "set-v1-checks"}
    assert artifacts["set-v1-verdict"] == "# set v1: passed"
    assert {"figure": "num_rows", "value": 24} in json.loads(artifacts["set-v1-figures"])
    refused = validate_dataset(str(dataset), ("mean_alpha=1",), return_state=True)
    assert refused.is_failed()  # no such limit
    refused = validate_dataset(str(dataset), ("kl_error_max=1e-12",), return_state=True)
    assert refused.is_failed()
    assert isinstance(refused.result(raise_on_failure=False), RefusedError)
    artifacts = artifacts_of(refused)
    assert "refused" in artifacts["set-v1-verdict"]
    checks = {check["name"]: check for check in json.loads(artifacts["set-v1-checks"])}
    assert checks["max_kl_error"]["outcome"] == "failed"
    assert checks["max_kl_error"]["limit"] == "≤ 1e-12"
