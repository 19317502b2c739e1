"""The terminal tables of the commands `validate` and `compare`."""

from __future__ import annotations

from collections import Counter, defaultdict

from flows.cli.terminal import escape
from flows.compare import Judged, side_by_side
from tasks.publish.dataset import Dataset
from validations.verdict import Verdict


def print_verdict(dataset: Dataset, verdict: Verdict) -> None:
    """Print the number of checks by outcome, the warnings, the checks not judged; `refuse` raises the refusals."""
    counts = Counter(check.outcome for check in verdict.checks)
    outcomes = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "not judged"))
    print(f"{_line(dataset.title)}: {outcomes}")
    for warning in verdict.warnings:
        print(f"warning: {_line(warning)}")
    unjudged: dict[str, list[str]] = defaultdict(list)
    for check in verdict.checks:
        if check.outcome == "not judged":
            unjudged[check.why].append(check.name)
    for why, names in unjudged.items():
        print(f"not judged: {', '.join(names)} ({_line(why)})")


def print_comparison(judged: tuple[Judged, Judged]) -> None:
    """Print both datasets' metrics side by side."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("figure", box=None)
    for dataset, verdict in judged:
        outcome = "passed" if verdict.passed else "refused"
        table.add_column(Text(f"{_line(dataset.title)}\n{outcome}"), justify="right", overflow="fold")
    table.add_column("B − A", justify="right")
    for row in side_by_side(judged):
        values = (row[column] for column in ("A", "B", "B − A"))
        table.add_row(row["figure"], *("–" if value is None else f"{value:.6g}" for value in values))
    Console().print(table)


def _line(text: str) -> str:
    """Return a stranger's text on one line, escaped."""
    return escape(" ".join(text.split()))
