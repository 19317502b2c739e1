"""The report of a benchmark: its table in the terminal, its chart as a PNG."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from flows.cli.bench.metrics import Block, Line

MIB = 1 << 20
PARTS = ("theta", "teacher", "mixing", "rest")
BAR, GAP = 1.0, 0.9  # heights on the chart's axis: a bar, the space between two blocks
COLOURS = ("#8c8c8c", "#bdbdbd", "#1f77b4", "#7fb3d8", "#ff7f0e")  # grey for the models alone
BOUND = "#b22222"
LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}  # keeps the dashed line off a label


def print_table(blocks: Sequence[Block], title: str, notes: Iterable[str]) -> None:
    """Print one block per number of rows in flight, then the notes."""
    table = Table(title=escape(title))
    table.add_column("drawn by", no_wrap=True)
    for column in ("tokens/s", "÷ bound", "÷ teacher", "ms a step", *PARTS, "peak MiB"):
        table.add_column(column, justify="right", no_wrap=True)
    for block in blocks:
        table.add_section()
        table.add_row(f"[bold]{block.rows} rows in flight[/]")
        for line in block.lines:
            table.add_row(escape(line.name), *_cells(line))
        teacher = block.lines[0].tokens_per_s
        bound = f"{block.serial_bound:,.0f}", "1.00", f"{block.serial_bound / teacher:.2f}"
        table.add_row("serial bound", *bound)
    console = Console(highlight=False, soft_wrap=True)
    widest = console.options.update(max_width=1000)
    console.width = max(console.width, Measurement.get(console, widest, table).maximum)  # a pipe's 80 columns cut cells
    console.print(table)
    for note in notes:
        console.print(escape(note))


def _cells(line: Line) -> list[str]:
    steps = [f"{line.step_ms[part]:.2f}" if part in line.step_ms else "–" for part in ("all", *PARTS)]
    shares = f"{line.of_bound:.2f}", f"{line.of_teacher:.2f}"
    return [f"{line.tokens_per_s:,.0f}", *shares, *steps, f"{line.peak_bytes / MIB:,.0f}"]


def write_chart(blocks: Sequence[Block], title: str, path: Path) -> None:
    """Write a PNG of tokens/s: a bar per mode, a dashed line at the serial bound; the fewest rows on top."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a model's name may hold characters that the font lacks
        matplotlib.rcdefaults()  # ignore the user's matplotlibrc
        matplotlib.rcParams["text.parse_math"] = False
        num_bars = sum(len(block.lines) for block in blocks)
        figure = Figure(figsize=(9.0, 1.6 + 0.32 * num_bars + 0.3 * len(blocks)), layout="constrained")
        axes = figure.subplots()
        names = list(dict.fromkeys(line.name for block in blocks for line in block.lines))
        farthest = max(line.tokens_per_s for block in blocks for line in block.lines)
        top, ticks = 0.0, []
        for block in blocks:
            for index, line in enumerate(block.lines):
                colour = COLOURS[names.index(line.name) % len(COLOURS)]
                y = top + index * BAR
                axes.barh(y, line.tokens_per_s, height=0.86 * BAR, color=colour, label=line.name)
                text = f"{line.tokens_per_s:,.0f}   {line.of_bound:.2f} of the bound"
                label = axes.annotate(text, (line.tokens_per_s, y), (4, 0), textcoords="offset points", va="center")
                label.set(fontsize=8, bbox=LABEL_BOX)
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
