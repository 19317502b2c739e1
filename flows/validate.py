"""The flow that judges an existing dataset again."""

from __future__ import annotations

import flows.orchestration.environment  # noqa: F401  isort: skip  (before Prefect, Great Expectations)

import runpy
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefect import flow

from flows.orchestration.secrets import storage_options
from sampling.errors import RefusedError
from tasks.publish.dataset import Dataset, open_dataset
from tasks.publish.documents import as_json
from tasks.publish.judge import changed_limits, judge_again

if TYPE_CHECKING:
    from validations.verdict import Verdict


@flow(name="validate-dataset")
def validate_dataset(dataset: str, changes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Judge a dataset again; the run fails where the gate refuses it. Return the metrics.

    Args:
        dataset: A dataset's folder, or one Parquet file of this schema.
        changes: Limits to override, as name=value.
    """
    from flows.orchestration.artifacts import show_quality

    opened, verdict = judge_dataset(dataset, changes)
    show_quality(opened.title, as_json(verdict), None)
    refuse(opened, verdict)
    return dict(verdict.metrics)


def judge_dataset(dataset: str, changes: Sequence[str]) -> tuple[Dataset, Verdict]:
    """Return a dataset and its verdict. Raises SourceError, ConfigurationError, RefusedError where it is damaged."""
    opened = open_dataset(dataset, storage_options(dataset))
    limits = changed_limits(opened.limits, changes)
    opened.check_whole()
    return opened, judge_again(opened, limits)


def refuse(dataset: Dataset, verdict: Verdict) -> None:
    """Raise RefusedError where the verdict is not passed."""
    if not verdict.passed:
        raise RefusedError(f"{'; '.join(verdict.refusals)} ({dataset.address})")


if __name__ == "__main__":  # python flows/validate.py …: the command `dual-sampling validate`, which imports this file
    sys.argv.insert(1, "validate")
    runpy.run_module("flows.cli", run_name="__main__")
