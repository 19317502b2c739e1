"""Inline SVG of a matplotlib figure, with the colours of the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID, LIMIT, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
COLOURS = {INK: "currentColor", GRID: "var(--grid)", LIMIT: "var(--limit)", FIRST: "var(--a)", SECOND: "var(--b)"}
SETTINGS = {
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.4,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.labelsize": 8.5, "legend.fontsize": 8, "legend.frameon": False,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "svg.fonttype": "none", "text.parse_math": False, "axes.unicode_minus": True,
}  # fmt: skip
WIDTH_IN, HEIGHT_IN = 4.2, 2.5  # on a phone an em of its text is still 10 px


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot of a page."""

    name: str  # unique in a page
    title: str
    caption: str  # how to read it
    svg: str  # markup, safe to insert in a page unescaped


def as_plot(
    name: str, title: str, caption: str, draw: Callable[[Figure], None], note: str, height: float = 1.0
) -> Plot:
    """Return the figure that `draw` fills, or the text `note` in its place; `height` 1 is a plot of one panel."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph"
        )  # missing in its font, which only measures text; the browser has others
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change a report
        matplotlib.rcParams.update(SETTINGS | {"svg.hashsalt": name})  # type: ignore[arg-type]
        if note:
            figure = Figure(figsize=(WIDTH_IN, 0.5))
            figure.text(0.02, 0.5, note, size=9, va="center")
        else:
            figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN * height), layout="constrained")
            draw(figure)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return Plot(name, title, caption, _inline(out.getvalue(), name, f"{title}. {note or caption}"))


def legible(label: str) -> str:
    """Return a label that matplotlib draws: its legends skip a leading `_`, and XML has no control characters."""
    printable = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in label[:60])
    return f" {printable}" if printable.startswith("_") else printable


def legend(axes: Axes, datasets: Mapping[str, object]) -> None:
    """Draw a legend where there is more than one dataset."""
    if len(datasets) > 1:
        axes.legend(loc="best", handlelength=2.5)


def _inline(svg: bytes, name: str, description: str) -> str:
    """Return matplotlib's document as an element: unique ids, the page's colours, a label for screen readers."""
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):  # its style would apply to the whole page
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.set(key.rpartition("}")[2], _replaced(value, key.rpartition("}")[2], name))
    for key in ("id", "width", "height", "version"):
        root.attrib.pop(key, None)
    for key, value in {"class": "plot", "role": "img", "aria-label": description}.items():
        root.set(key, value)
    title = ElementTree.Element("title")
    title.text = description
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def _replaced(value: str, key: str, name: str) -> str:
    """Return an attribute's value with this plot's ids in place of matplotlib's, and the page's colours."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-")
    value = value.replace("url(#", f"url(#{name}-")
    return re.sub("#0[1-5]0[1-5]0[1-5]", lambda match: COLOURS.get(match[0], match[0]), value)
