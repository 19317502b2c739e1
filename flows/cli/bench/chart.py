"""The benchmark's chart: tokens/s of each way of drawing, held against the serial bound."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from flows.cli.bench.metrics import Block

BAR, GAP = 1.0, 0.9  # heights on the axis: a bar, the space between two blocks
COLOURS = ("#8c8c8c", "#bdbdbd", "#1f77b4", "#7fb3d8", "#ff7f0e")  # the models alone stand back
BOUND = "#b22222"
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}  # keeps a label off the dashed line


def write_chart(blocks: Sequence[Block], title: str, path: Path) -> None:
    """A PNG of grouped bars, the fewest rows on top."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a model's name may hold what the font lacks
        matplotlib.rcdefaults()  # a user's own matplotlibrc is not to change the chart
        matplotlib.rcParams["text.parse_math"] = False
        num_bars = sum(len(block.lines) for block in blocks)
        figure = Figure(figsize=(9.0, 1.6 + 0.32 * num_bars + 0.3 * len(blocks)), layout="constrained")
        axes = figure.subplots()
        names = list(dict.fromkeys(line.name for block in blocks for line in block.lines))
        farthest = max(line.tokens_per_s for block in blocks for line in block.lines)
        top, ticks = 0.0, []
        for block in blocks:
            for place, line in enumerate(block.lines):
                colour = COLOURS[names.index(line.name) % len(COLOURS)]
                y = top + place * BAR
                axes.barh(y, line.tokens_per_s, height=0.86 * BAR, color=colour, label=line.name)
                text = f"{line.tokens_per_s:,.0f}   {line.of_bound:.2f} of the bound"
                label = axes.annotate(text, (line.tokens_per_s, y), (4, 0), textcoords="offset points", va="center")
                label.set(fontsize=8, bbox=BEHIND)
                ticks.append((y, line.name))
            bottom = top + len(block.lines) * BAR
            axes.vlines(block.serial_bound, top - BAR / 2, bottom - BAR / 2, BOUND, "--", linewidth=1.4)
            text = f"{block.rows} rows in flight, serial bound {block.serial_bound:,.0f}"
            axes.text(farthest * 0.003, top - BAR / 2 - 0.08, text, color=BOUND, fontsize=8.5)
            top = bottom + GAP
        axes.set_yticks([y for y, _ in ticks], [name for _, name in ticks], fontsize=9)
        axes.set_ylim(top - GAP - BAR / 2, -BAR / 2 - GAP)
        axes.set_xlim(0, farthest * 1.28)  # room for the last label
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("tokens/s; dashed: the serial bound 1/(1/T + 1/S) of the teacher alone (T) and theta alone (S)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_title(title, fontsize=10, loc="left")
        figure.savefig(path, dpi=150, format="png", metadata={"Software": None})
