"""Tests of the benchmark's table and chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from flows.cli.bench.metrics import Wave, make_block
from flows.cli.bench.plan import TEACHER, THETA
from flows.cli.bench.report import BOUND, COLOURS, print_table, write_chart
from tests.flows.cli.bench.test_metrics import measured


def test_no_table_cell_is_cut_and_markup_is_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    parts: dict[str, Any] = {"num_steps": 8, "theta_s": 0.002, "teacher_s": 0.003, "mixing_s": 0.001}
    results = {
        TEACHER: measured(Wave(elapsed_s=0.001, num_tokens=9_876_543)),
        THETA: measured(Wave(elapsed_s=0.5, num_tokens=64)),
        "[red] of a name that is long": measured(Wave(elapsed_s=0.008, num_tokens=64, **parts)),
    }
    print_table([make_block(8, 8, results)], "two models [1]", ["a note [2]"])
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row[0] for row in cells] == ["8 rows in flight", *results, "serial bound"]
    assert cells[1][1] == "9,876,543,000"
    assert cells[3] == ["[red] of a name that is long", "8,000", "62.50", "0.00", *cells[3][4:]]
    assert cells[3][4:] == ["1.00", "0.25", "0.38", "0.12", "0.25", "7"]
    assert "two models [1]" in lines[0]
    assert lines[-1] == "a note [2]"


def test_bars_are_as_long_as_their_speeds_with_a_line_at_the_bound(tmp_path: Path) -> None:
    seconds = {TEACHER: 1.0, THETA: 0.5, "q*, $x_1$ 你好": 2.0}
    block = make_block(
        1, 100, {name: measured(Wave(elapsed_s=value, num_tokens=100)) for name, value in seconds.items()}
    )
    write_chart([block, block.model_copy(update={"rows": 2})], "a $title$", tmp_path / "chart.png")
    pixels = imread(tmp_path / "chart.png")[..., :3]

    def columns(colour: str) -> np.ndarray:
        """Return how many pixels of each column have the colour."""
        return np.asarray((np.abs(pixels - to_rgb(colour)).max(axis=-1) < 0.01).sum(axis=0))

    widths = [np.count_nonzero(columns(colour) > 20) for colour in COLOURS[:3]]  # the edges of letters are grey, too
    assert np.allclose(np.array(widths) / widths[1], [0.5, 1.0, 0.25], atol=0.02)  # 100, 200, 50 tokens/s
    left = np.flatnonzero(columns(COLOURS[1]) > 20)[0]
    line = int(columns(BOUND).argmax())
    assert np.isclose((line - left) / widths[1], 200 / 3 / 200, atol=0.02)
