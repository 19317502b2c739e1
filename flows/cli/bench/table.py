"""The benchmark's table in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from flows.cli.bench.metrics import Block, Line

MIB = 1 << 20
PARTS = ("theta", "teacher", "mixing", "rest")


def print_table(blocks: Sequence[Block], title: str, notes: Iterable[str]) -> None:
    """One block a number of rows in flight, then what must be known to read them."""
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
    console.width = max(console.width, Measurement.get(console, widest, table).maximum)  # a pipe says 80, which cuts
    console.print(table)
    for note in notes:
        console.print(escape(note))


def _cells(line: Line) -> list[str]:
    steps = [f"{line.step_ms[part]:.2f}" if part in line.step_ms else "–" for part in ("all", *PARTS)]
    shares = f"{line.of_bound:.2f}", f"{line.of_teacher:.2f}"
    return [f"{line.tokens_per_s:,.0f}", *shares, *steps, f"{line.peak_bytes / MIB:,.0f}"]
