"""The table in a terminal."""

from __future__ import annotations

import pytest

from flows.cli.bench.metrics import make_block
from flows.cli.bench.plan import TEACHER, THETA
from flows.cli.bench.table import print_table
from tests.flows.cli.bench.test_metrics import Wave, measured


def test_nothing_is_cut_and_markup_is_shown_as_it_stands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    parts = {"num_steps": 8, "theta_s": 0.002, "teacher_s": 0.003, "mixing_s": 0.001}
    found = {
        TEACHER: measured(Wave(elapsed_s=0.001, num_tokens=9_876_543)),
        THETA: measured(Wave(elapsed_s=0.5, num_tokens=64)),
        "[red] of a name that is long": measured(Wave(elapsed_s=0.008, num_tokens=64, **parts)),
    }
    print_table([make_block(8, 8, found)], "two models [1]", ["a note [2]"])
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row[0] for row in cells] == ["8 rows in flight", *found, "serial bound"]
    assert cells[1][1] == "9,876,543,000"
    assert cells[3] == ["[red] of a name that is long", "8,000", "62.50", "0.00", *cells[3][4:]]
    assert cells[3][4:] == ["1.00", "0.25", "0.38", "0.12", "0.25", "7"]
    assert "two models [1]" in lines[0]
    assert lines[-1] == "a note [2]"
