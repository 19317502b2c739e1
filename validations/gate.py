"""The gate: the judgement that a dataset must pass before it is published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from validations.expectations import ExpectationRunner
from validations.limits import Limits
from validations.measure.aggregates import Metrics
from validations.measure.metadata import DatasetMetadata
from validations.measure.scan import DatasetScan
from validations.suites import Check, checks
from validations.verdict import SUITES, Verdict

__all__ = ["DatasetMetadata", "Limits", "Verdict", "judge", "judge_metrics"]

JUDGED_ROWS = 100_000  # a batch; Great Expectations takes about 1 KB a row and 30 expectations at its peak


def judge(parquet_files: Sequence[Path], limits: Limits, metadata: DatasetMetadata) -> Verdict:
    """Judge Parquet files with the columns of `sampling.record.RECORD_SCHEMA`, in one pass.

    Raises RuntimeError when Great Expectations itself fails: then the dataset is neither passed nor refused.
    """
    scan = DatasetScan(parquet_files, metadata, limits.privilege_phrases)
    runner = ExpectationRunner(checks(limits, kl_symmetric=metadata.kl_symmetric))
    for rows in _joined(scan.frames()):
        runner.judge_rows(rows)
    metrics = scan.metrics()
    runner.judge_dataset(metrics)
    runner.first_rows = scan.first_rows()
    results = {suite: runner.suite_result(suite) for suite in SUITES}
    return Verdict(tuple(runner.check_results(metrics, metadata)), metrics, scan.aggregates(), results)


def judge_metrics(
    metrics: Metrics, checks: list[Check], first_rows: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return one line for each check of a whole dataset that its metrics fail."""
    runner = ExpectationRunner(checks)
    runner.first_rows = dict(first_rows or {})
    runner.judge_dataset(metrics)
    results = runner.check_results(metrics, DatasetMetadata())
    return tuple(result.line(None) for result in results if result.outcome == "failed")


def _joined(frames: Iterable[pd.DataFrame]) -> Iterable[pd.DataFrame]:
    """Yield the same rows, about JUDGED_ROWS at a time: a run of the suite costs 0.3 s before the first row."""
    waiting: list[pd.DataFrame] = []
    for frame in frames:
        waiting.append(frame)
        if sum(map(len, waiting)) >= JUDGED_ROWS:
            yield pd.concat(waiting, ignore_index=True)
            waiting = []
    if waiting:
        yield pd.concat(waiting, ignore_index=True)
