"""The verdict on a dataset that is already there."""

from __future__ import annotations

import flows.environment  # noqa: F401  isort: skip  (before Prefect, Great Expectations)

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefect import flow

from flows.credentials import storage_options
from sampling.errors import RefusedError
from tasks.dataset import Dataset, open_dataset
from tasks.documents import as_json
from tasks.judge import changed_limits, judge_again

if TYPE_CHECKING:
    from validations.verdict import Verdict


@flow(name="validate-dataset")
def validate_dataset(
    dataset: str,
    changes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Judge a dataset again; the run fails where the gate refuses it. Returns the figures.

    Args:
        dataset: A dataset's folder, or one Parquet file of this schema.
        changes: Other limits, as name=value.
    """
    from flows.artifacts import show_quality

    opened, verdict = judge_dataset(dataset, changes)
    show_quality(opened.title, as_json(verdict), None)
    refuse(opened, verdict)
    return dict(verdict.figures)


def judge_dataset(dataset: str, changes: Sequence[str]) -> tuple[Dataset, Verdict]:
    """A dataset with its verdict. Raises SourceError, ConfigurationError, RefusedError where it is damaged."""
    opened = open_dataset(dataset, storage_options(dataset))
    limits = changed_limits(opened.limits, changes)
    opened.check_whole()
    return opened, judge_again(opened, limits)


def refuse(dataset: Dataset, verdict: Verdict) -> None:
    """Raise RefusedError where the verdict is one."""
    if not verdict.passed:
        raise RefusedError(f"{'; '.join(verdict.refusals)} ({dataset.address})")


def print_verdict(dataset: Dataset, verdict: Verdict) -> None:
    """The outcome in a few lines; refusals are the command's last word, on stderr."""
    from flows.terminal import escape

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


if __name__ == "__main__":  # python flows/validate.py …: the command `dual-sampling validate`
    from flows.cli import main

    sys.exit(main(["validate", *sys.argv[1:]]))
