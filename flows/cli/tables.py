"""A verdict, and a comparison of two, in a terminal."""

from __future__ import annotations

from flows.cli.terminal import escape
from flows.compare import Judged, side_by_side
from tasks.publish.dataset import Dataset
from validations.verdict import Verdict


def print_verdict(dataset: Dataset, verdict: Verdict) -> None:
    """Print the outcome in a few lines; refusals are the command's last word, on stderr."""
    counts = dict.fromkeys(("passed", "failed", "not judged"), 0)
    for check in verdict.checks:
        counts[check.outcome] += 1
    print(f"{escape(dataset.title)}: {', '.join(f'{num} {outcome}' for outcome, num in counts.items())}")
    for line in verdict.warnings:
        print(f"warning: {escape(line)}")
    unjudged: dict[str, list[str]] = {}
    for check in verdict.checks:
        if check.outcome == "not judged":
            unjudged.setdefault(check.why, []).append(check.name)
    for why, names in unjudged.items():
        print(f"not judged: {', '.join(names)} ({escape(why)})")


def print_comparison(judged: tuple[Judged, Judged]) -> None:
    """Print both datasets' metrics side by side."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("figure", box=None)
    for dataset, verdict in judged:
        outcome = "passed" if verdict.passed else "refused"
        table.add_column(Text(f"{dataset.title}\n{outcome}"), justify="right", overflow="fold")
    table.add_column("B − A", justify="right")
    for row in side_by_side(judged):
        table.add_row(row["figure"], *(_shown(row[name]) for name in ("A", "B", "B − A")))
    Console().print(table)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"
