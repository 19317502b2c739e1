"""Plots against the aggregates that they are drawn from."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.validations.made_up import SPEED, make_aggregates, make_empty_aggregates
from validations.measure.aggregates import Aggregates, ByPosition, Correctness, Histogram
from validations.report.plots import (
    _wilson,
    alpha,
    alpha_by_position,
    correctness,
    divergence_by_position,
    draw_plots,
    kl_error,
    lengths,
    speed,
)
from validations.report.svg import Plot

POINTS = [(end, rate) for end, rate in SPEED]
NAMES = ["alpha", "alpha-position", "kl-error", "divergence", "overlap", "lengths", "ess", "correctness", "speed"]


def texts(plot: Plot) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(plot.svg).iter("text")]


def path_points(plot: Plot, colour: str) -> list[np.ndarray]:
    """The vertices of each unfilled line of that colour, in points of the drawing; y runs down."""
    paths = [
        path.get("d", "")
        for path in ElementTree.fromstring(plot.svg).iter("path")
        if f"stroke: {colour}" in path.get("style", "") and "fill: none" in path.get("style", "")
    ]
    numbers = [np.array(re.findall(r"[ML] (\S+) (\S+)", d), dtype=float) for d in paths]
    return [points for points in numbers if len(points) > 2]


def test_every_plot_is_drawn_once() -> None:
    plots = draw_plots({"": make_aggregates()}, {"": POINTS})
    assert [plot.name for plot in plots] == NAMES
    for plot in plots:
        root = ElementTree.fromstring(plot.svg)
        assert root.get("role") == "img"
        assert plot.title in root.get("aria-label", "")
        assert root[0].tag == "title"
        assert len(texts(plot)) > 5, "axes have labels and ticks"


def test_speed_is_left_out_where_there_is_none() -> None:
    assert [plot.name for plot in draw_plots({"": make_aggregates()}, {"": []})] == NAMES[:-1]
    assert [plot.name for plot in draw_plots({"": make_aggregates()}, {})] == NAMES[:-1]


def test_histogram_has_its_counts() -> None:
    data = replace(make_aggregates(), alpha=Histogram([0, 0.25, 0.5, 0.75, 1], [1, 2, 3, 4]))
    (line,) = path_points(alpha({"": data}), "var(--a)")
    floor = line[0, 1]
    heights = floor - line[[1, 3, 5, 7], 1]
    assert heights / heights[0] == pytest.approx([1, 2, 3, 4], rel=1e-4)


def test_kl_error_shows_its_limit() -> None:
    edges = [-12.0, -9.0, -6.0, -3.0, 0.0]
    plot = kl_error({"": replace(make_aggregates(), log10_kl_error=Histogram(edges, [5, 5, 5, 5]))}, 1e-6)
    assert "limit 1e-06" in " ".join(texts(plot))
    (line,) = path_points(plot, "var(--a)")
    marks = re.findall(
        r'd="M (\S+) \S+ +L (\S+) \S+ *" [^>]*style="[^"]*stroke: var\(--limit\)', plot.svg.replace("\n", " ")
    )
    assert [float(x) for x in marks[0]] == pytest.approx([(line[0, 0] + line[-1, 0]) / 2] * 2, abs=0.01)


def test_positions_without_a_token_break_the_line() -> None:
    positions = ByPosition([0, 1, 2, 3], [1, 2, 3, 4], [9] * 4, [0.5, None, 0.5, 0.5], [0.1, None, 0.1, 0.1],
                           [None, 0.1, 0.1, 0.1], [0.9] * 4, [None, 0.5, 0.5, 0.5])  # fmt: skip
    plot = alpha_by_position({"": replace(make_aggregates(), by_position=positions)})
    lines = re.findall(r'd="(M[^"]+)"[^>]*stroke: var\(--a\)', plot.svg.replace("\n", " "))
    assert [line.count("M") for line in lines] == [2]
    assert "fallback (%)" in texts(divergence_by_position({"": replace(make_aggregates(), by_position=positions)}))


def test_wilson_interval() -> None:
    low, high = _wilson(np.array([0.0, 10.0, 81.0]), np.array([10.0, 10.0, 263.0]))
    assert low == pytest.approx([0, 0.7224672, 0.2553], abs=1e-4)  # the last: Newcombe 1998, table I, 81 of 263
    assert high == pytest.approx([0.2775328, 1, 0.3662], abs=1e-4)


def test_counts_stand_in_the_key() -> None:
    assert {"eos 80 % (320)", "stop 7.5 % (30)", "length 12.5 % (50)"} <= set(texts(lengths({"": make_aggregates()})))
    found = Correctness([0, 0.5, 1], [4, 0], [1, 0])
    assert "A: 1 of 4 right" in texts(
        correctness({"A": replace(make_aggregates(), correctness=found), "B": make_aggregates()})
    )


def test_no_data_is_said_in_words() -> None:
    plots = draw_plots({"": make_empty_aggregates()}, {})
    assert [plot.name for plot in plots] == NAMES[:-1]
    assert all(len(texts(plot)) == 1 and texts(plot)[0].startswith("No ") for plot in plots)
    assert texts(speed({"": []})) == ["No speed was recorded."]


def test_one_with_and_one_without_data() -> None:
    for pair in (
        {"A": make_aggregates(), "B": make_empty_aggregates()},
        {"A": make_empty_aggregates(), "B": make_aggregates()},
    ):
        assert all(len(texts(plot)) > 5 for plot in draw_plots(pair, {"A": [], "B": POINTS}))


def test_one_row() -> None:
    one = Histogram([0.0, 1.0], [1])
    ranges = ByPosition([0], [1], [1], [0.5], [0.0], [0.1], [0.9], [0.0])
    data = Aggregates(one, one, one, one, {"eos": one}, ranges, Correctness([0, 1], [1], [1]))
    assert all(len(texts(plot)) > 5 for plot in draw_plots({"": data}, {"": [(1.0, 5.0)]}))
