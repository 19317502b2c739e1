"""Tests of the demo, from problems to its table."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.cli import main as cli
from flows.demo.demo import NAME, Score, _score, print_table
from flows.demo.problems import final_answer


@pytest.mark.slow
def test_the_demo_prints_its_table_and_the_published_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Run in an empty folder: 8 problems, three ways of sampling, one dataset."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--problems", "8"]) == 0, capfd.readouterr().err
    lines = capfd.readouterr().out.splitlines()
    dataset = Path(lines[-1])
    assert dataset.parent == tmp_path / "published" / NAME
    rows = [row for path in sorted(dataset.glob("data/*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert len(rows) == 8
    assert all(row["answer"] in row["teacher_prompt"] for row in rows)
    assert not any("####" in row["theta_prompt"] for row in rows)

    cells = {}
    for line in lines:
        name, *values = [cell.strip() for cell in line.strip("│").split("│")]
        if len(values) == 5:
            cells[name] = values
    solved = sum(final_answer(row["completion"]) == final_answer(row["answer"]) for row in rows)
    assert cells["q*, balanced"][0] == f"{solved / 8:.0%}"
    assert [cells[name][2] for name in ("theta alone", "teacher alone")] == ["0.00", "1.00"]
    metrics = json.loads((dataset / "manifest.json").read_text())["figures"]
    assert f"fallback rate {metrics['fallback_rate']:.1%}" in lines[-2]


def test_a_score_weighs_rows_by_their_tokens() -> None:
    rows = [
        {"answer": "#### 12", "completion": "12\n#### 12", "finish_reason": "eos", "num_tokens": 1,
         "mean_alpha": 1.0, "mean_logprob_theta": -4.0},
        {"answer": "#### 7", "completion": "8", "finish_reason": "length", "num_tokens": 3,
         "mean_alpha": 0.0, "mean_logprob_theta": 0.0},
    ]  # fmt: skip
    expected = Score(solved=0.5, ended=0.5, alpha=0.25, logprob_theta=-1.0, tokens_per_s=9.0)
    assert _score(rows, tokens_per_s=9.0) == expected


def test_a_dataset_without_a_mixed_token_has_a_table_too(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"num_rows": 2, "num_tokens": 4, "fallback_rate": 1.0, "kl_error_max": None}
    print_table({"q*, balanced": Score(0.5, 1.0, 1.0, -2.0, 1234.5)}, metrics)
    out = capsys.readouterr().out
    assert all(cell in out for cell in ("50%", "100%", "1.00", "-2.00", "1,234", "KL error at most –"))


def test_an_output_that_is_not_writable_is_an_input_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["demo", "--output", str(tmp_path / "file" / "sub")]) == 2
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1
    assert "give a folder that is writable with --output" in err
