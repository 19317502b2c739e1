"""The chart of tokens/s."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from flows.cli.bench.chart import BOUND, COLOURS, write_chart
from flows.cli.bench.metrics import make_block
from flows.cli.bench.plan import TEACHER, THETA
from tests.flows.cli.bench.test_metrics import Wave, measured


def test_bars_are_as_long_as_their_speeds_with_a_line_at_the_bound(tmp_path: Path) -> None:
    seconds = {TEACHER: 1.0, THETA: 0.5, "q*, $x_1$ 你好": 2.0}
    block = make_block(
        1, 100, {name: measured(Wave(elapsed_s=value, num_tokens=100)) for name, value in seconds.items()}
    )
    write_chart([block, block.model_copy(update={"rows": 2})], "a $title$", tmp_path / "chart.png")
    pixels = imread(tmp_path / "chart.png")[..., :3]

    def columns(colour: str) -> np.ndarray:
        """How many pixels of each column have it."""
        return np.asarray((np.abs(pixels - to_rgb(colour)).max(axis=-1) < 0.01).sum(axis=0))

    widths = [np.count_nonzero(columns(colour) > 20) for colour in COLOURS[:3]]  # the edges of letters are grey, too
    assert np.allclose(np.array(widths) / widths[1], [0.5, 1.0, 0.25], atol=0.02)  # 100, 200, 50 tokens/s
    left = np.flatnonzero(columns(COLOURS[1]) > 20)[0]
    line = int(columns(BOUND).argmax())
    assert np.isclose((line - left) / widths[1], 200 / 3 / 200, atol=0.02)
