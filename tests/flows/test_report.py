"""Tests of the `report` command, and of its flow on a real server."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.report import report_dataset
from tests.flows.commands import Run, artifacts_of, the_line
from tests.validations.tables import made_rows, to_table


def test_a_page_is_written_where_it_is_wanted(run: Run, dataset: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    code, out, err = run("report", dataset, "-o", page)
    assert (code, out, err) == (0, f"{page}\n", "")
    text = page.read_text()
    assert "set v1" in text
    assert "What is 0 plus a thousand?" in text
    assert text.count("<svg") >= 8
    assert not (dataset / "report.html").exists()


def test_a_page_that_cannot_be_written_is_exit_code_2(run: Run, dataset: Path) -> None:
    code, out, err = run("report", dataset, "-o", dataset / "manifest.json" / "page.html")
    assert (code, out) == (2, "")
    assert "-o" in the_line(err)


def test_a_damaged_dataset_gets_no_page(run: Run, dataset: Path, tmp_path: Path) -> None:
    pq.write_table(to_table(made_rows(12)), next((dataset / "data").iterdir()))
    for command in (["report", dataset, "-o", tmp_path / "page.html"], ["compare", dataset, dataset]):
        code, out, err = run(*command)
        assert (code, out) == (3, "")
        assert "manifest.json lists" in the_line(err)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
def test_the_flow_links_the_page(dataset: Path, tmp_path: Path, prefect_server: str) -> None:
    page = tmp_path / "page.html"
    state = report_dataset(str(dataset), str(page), return_state=True)
    assert state.result() == str(page)
    artifacts = artifacts_of(state)
    assert page.as_uri() in artifacts["set-v1-report"]
    assert page.exists()
