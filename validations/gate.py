"""The gate that a dataset passes before it is published."""

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

JUDGED_ROWS = 100_000  # Great Expectations takes about 1 KB a row and 30 expectations at its peak


def judge(parquet_files: Sequence[Path], limits: Limits, facts: DatasetMetadata) -> Verdict:
    """Judges Parquet files with the columns of `sampling.record.RECORD_SCHEMA`, in one pass.

    Raises RuntimeError when Great Expectations itself fails: a broken gate neither refuses nor passes.
    """
    asked = checks(limits, kl_symmetric=facts.kl_symmetric)
    survey = DatasetScan(parquet_files, facts)
    bench = ExpectationRunner(asked)
    for rows in _joined(survey.frames()):
        bench.judge_rows(rows)
    metrics = survey.metrics()
    bench.judge_dataset(metrics)
    bench.first_rows = survey.first_rows()
    results = {suite: bench.suite_result(suite) for suite in SUITES}
    return Verdict(tuple(bench.check_results(metrics, facts)), metrics, survey.aggregates(), results)


def judge_metrics(metrics: Metrics, asked: list[Check], first_rows: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Lines of those checks of a whole dataset that its figures fail."""
    bench = ExpectationRunner(asked)
    bench.first_rows = dict(first_rows or {})
    bench.judge_dataset(metrics)
    results = bench.check_results(metrics, DatasetMetadata())
    return tuple(result.line(None) for result in results if result.outcome == "failed")


def _joined(frames: Iterable[pd.DataFrame]) -> Iterable[pd.DataFrame]:
    """The same rows, about JUDGED_ROWS at a time: a run of the suite costs 0.3 s before the first row."""
    waiting: list[pd.DataFrame] = []
    for frame in frames:
        waiting.append(frame)
        if sum(map(len, waiting)) >= JUDGED_ROWS:
            yield pd.concat(waiting, ignore_index=True)
            waiting = []
    if waiting:
        yield pd.concat(waiting, ignore_index=True)
