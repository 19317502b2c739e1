"""Markup of plots inside a page: ids, colours, labels."""

from __future__ import annotations

import re

import matplotlib
import pytest

from tests.validations.made_up import make_aggregates
from tests.validations.report.test_plots import POINTS, texts
from validations.report.plots import alpha, draw_plots
from validations.report.svg import COLOURS


def test_same_input_same_bytes() -> None:
    first = draw_plots({"A": make_aggregates()}, {"A": POINTS})
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.fonttype": "path"}):
        second = draw_plots({"A": make_aggregates()}, {"A": POINTS})
    assert first == second


def test_global_settings_are_left_alone() -> None:
    with matplotlib.rc_context({"font.size": 17.0}):
        draw_plots({"": make_aggregates()}, {})
        assert matplotlib.rcParams["font.size"] == 17.0


def test_ids_are_unique_in_a_page() -> None:
    plots = draw_plots({"A": make_aggregates(), "B": make_aggregates(1)}, {"A": POINTS, "B": POINTS})
    page = "".join(plot.svg for plot in plots)
    ids = re.findall(r'\bid="([^"]+)"', page)
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert len(ids) == len(set(ids)) > 100
    assert used
    assert used <= set(ids)


def test_colours_come_from_the_page() -> None:
    for plot in draw_plots({"A": make_aggregates(), "B": make_aggregates(1)}, {"A": POINTS, "B": POINTS}):
        colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", plot.svg))
        assert colours <= {*COLOURS.values(), "none"}, plot.name
        assert {"currentColor", "var(--a)", "var(--b)"} <= colours, plot.name


@pytest.mark.parametrize("label", ["_hidden", "$x$", "</svg><script>", "\x00\u202e", "#010101"])
def test_strange_labels_stay_text(label: str) -> None:
    plot = alpha({label: make_aggregates(), "B": make_aggregates(1)})
    shown = label if label.isprintable() else r"\x00\u202e"
    assert shown in [text.strip() for text in texts(plot)]
    assert "<script" not in plot.svg
