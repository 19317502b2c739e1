"""The flow that compares two datasets."""

from __future__ import annotations

import flows.orchestration.environment  # noqa: F401  isort: skip  (before Prefect, Great Expectations)

import runpy
import sys
from typing import Any

from prefect import flow

from flows.orchestration.secrets import storage_options
from flows.report import write_html
from tasks.publish.dataset import Dataset, open_dataset
from tasks.publish.judge import judge_again
from validations.verdict import Verdict

Judged = tuple[Dataset, Verdict]


@flow(name="compare-datasets")
def compare_datasets(one: str, other: str, output: str | None = None) -> list[dict[str, Any]]:
    """Judge two datasets, show their metrics side by side; return the rows of that table.

    Args:
        one: A dataset's folder, or one Parquet file of this schema.
        other: The other dataset.
        output: The HTML page to write; without it, only the table is shown.
    """
    from prefect.artifacts import create_table_artifact

    from flows.orchestration.artifacts import escaped

    judged = judge_both(one, other)
    rows = side_by_side(judged)
    create_table_artifact(
        rows, key="comparison", description=escaped(f"{judged[0][0].title} beside {judged[1][0].title}")
    )
    if output is not None:
        write_comparison(judged, output)
    return rows


def judge_both(one: str, other: str) -> tuple[Judged, Judged]:
    """Return both datasets with their verdicts. Raises SourceError, or RefusedError where one is damaged."""
    opened = open_dataset(one, storage_options(one)), open_dataset(other, storage_options(other))
    for dataset in opened:
        dataset.check_whole()
    first, second = ((dataset, judge_again(dataset)) for dataset in opened)
    return first, second


def side_by_side(judged: tuple[Judged, Judged]) -> list[dict[str, Any]]:
    """Return each metric of both, with the second minus the first."""
    (_, one), (_, other) = judged
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys([*one.metrics, *other.metrics]):
        a, b = one.metrics.get(name), other.metrics.get(name)
        rows.append({"figure": name, "A": a, "B": b, "B − A": None if a is None or b is None else b - a})
    return rows


def write_comparison(judged: tuple[Judged, Judged], output: str) -> None:
    """Write the HTML page that shows both. Raises OutputError."""
    from validations.report.page import render_comparison  # matplotlib takes 1 s to import

    (one, one_verdict), (other, other_verdict) = judged
    titles = one.title, other.title
    if titles[0] == titles[1]:
        titles = one.address, other.address
    write_html(output, render_comparison(titles, (one_verdict, other_verdict), (one.manifest, other.manifest)))


if __name__ == "__main__":  # python flows/compare.py …: the command `dual-sampling compare`, which imports this file
    sys.argv.insert(1, "compare")
    runpy.run_module("flows.cli", run_name="__main__")
