"""Expectation runner: Great Expectations over the metrics of rows, then over those of the whole dataset.

It judges scalars alone: over the per-token lists it takes minutes. Its results hold counts and row numbers, no value
of any row, so that no text of a dataset reaches report.json or Data Docs through them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from validations.measure.aggregates import Metrics
from validations.measure.metadata import DatasetMetadata
from validations.suites import Check
from validations.verdict import CheckResult, Suite

if TYPE_CHECKING:
    from great_expectations.checkpoint import Checkpoint
    from great_expectations.data_context import EphemeralDataContext

MAX_CHARACTERS = 64  # of a value or an id, in a message
MAX_ROW_NUMBERS = 20  # of rows that broke an expectation, in its result
# Of three expectations that 900,000 of 1,000,000 rows fail: 1.5 s and 3 kB of JSON; COMPLETE took 65 s and 51 MB.
ROWS_FORMAT = {"result_format": "SUMMARY", "exclude_unexpected_values": True}
DATASET_FORMAT = {"result_format": "SUMMARY"}  # a metric of the whole dataset is a number, which may be shown


class ExpectationRunner:
    """The checks of one verdict, with Great Expectations' results so far."""

    def __init__(self, checks: list[Check]) -> None:
        self._checks = checks
        self._context = _quiet_context()
        self._results: dict[str, dict[str, Any]] = {}  # of Great Expectations, by the check's name
        self._first_broken: dict[str, str] = {}  # the first row that failed each check of rows
        self._rows_checkpoint: Checkpoint | None = None
        self._num_rows = 0
        self.first_rows: dict[str, str] = {}  # of checks of the whole dataset, where a row can be named

    def judge_rows(self, rows: pd.DataFrame) -> None:
        """Judge a batch of rows; the results of all batches are added up."""
        names = [check.name for check in self._checks if check.judges == "rows" and check.name in rows]
        if self._rows_checkpoint is None:
            checks = [check for check in self._checks if check.name in names]
            self._rows_checkpoint = _checkpoint(self._context, "rows", checks, ROWS_FORMAT)
        numbered = rows[names].set_axis(pd.RangeIndex(self._num_rows, self._num_rows + len(rows)))
        for name, result in _run(self._rows_checkpoint, numbered):
            if not result["success"] and name not in self._first_broken:
                first = result["result"]["partial_unexpected_index_list"][0] - self._num_rows
                self._first_broken[name] = _described(rows.iloc[first], name)
            self._results[name] = _sum(self._results[name], result) if name in self._results else result
        self._num_rows += len(rows)

    def judge_dataset(self, metrics: Metrics) -> None:
        """Judge the metrics of the whole dataset."""
        checks = [check for check in self._checks if check.judges == "dataset" and metrics.get(check.name) is not None]
        frame = pd.DataFrame([{check.name: metrics[check.name] for check in checks}])
        self._results.update(_run(_checkpoint(self._context, "dataset", checks, DATASET_FORMAT), frame))

    def check_results(self, metrics: Metrics, metadata: DatasetMetadata) -> list[CheckResult]:
        """Return each check's outcome over everything judged so far."""
        return [self._check_result(check, metrics, metadata) for check in self._checks]

    def _check_result(self, check: Check, metrics: Metrics, metadata: DatasetMetadata) -> CheckResult:
        fields: dict[str, Any] = {
            "name": check.name,
            "suite": check.suite,
            "severity": "refuse" if check.rule == "refuse" else "warn",
            "meaning": check.meaning,
            "limit": check.limit,
        }
        result = self._results.get(check.name)
        if result is None:
            kind, why = type(check.expectation()).__name__, _why_not(check, metrics, metadata)
            return CheckResult(**fields, expectation=kind, outcome="not judged", why=why)
        fields |= {
            "expectation": result["expectation_config"]["type"],
            "outcome": "passed" if result["success"] else "failed",
            "value": metrics.get(check.metric or check.name),
        }
        if check.judges == "dataset":
            why = "" if result["success"] else self.first_rows.get(check.name, "")
            return CheckResult(**fields, why=why)
        if not result["success"] and check.metric is None:
            fields["value"] = self._first_broken[check.name]
        return CheckResult(**fields, num_outside=int(result["result"]["unexpected_count"]))

    def suite_result(self, suite: Suite) -> dict[str, Any]:
        """Return the JSON of an ExpectationSuiteValidationResult with the results of one suite."""
        names = [check.name for check in self._checks if check.suite == suite]
        results = [self._results[name] for name in names if name in self._results]
        passed = sum(result["success"] for result in results)
        return {
            "success": passed == len(results),
            "suite_name": suite,
            "results": results,
            "statistics": {
                "evaluated_expectations": len(results),
                "successful_expectations": passed,
                "unsuccessful_expectations": len(results) - passed,
                "success_percent": 100.0 * passed / len(results) if results else None,
            },
            "meta": {
                "run_id": {"run_name": "gate", "run_time": datetime.now(UTC).isoformat(timespec="seconds")},
                "active_batch_definition": {"data_asset_name": "figures of rows and dataset"},
            },
        }


def _described(row: pd.Series, name: str) -> str:
    """Return a row's value of one metric, with the row's id and sample number."""
    value = repr(row[name]) if isinstance(row[name], str) else str(row[name])
    return f"{value[:MAX_CHARACTERS]} (row {str(row['id'])[:MAX_CHARACTERS]}, sample {row['sample_idx']})"


def _why_not(check: Check, metrics: Metrics, metadata: DatasetMetadata) -> str:
    """Return the reason that a check was not judged."""
    lacking = "the dataset lacks the columns it takes"
    if not metrics.get("num_rows"):
        return "there is no row"
    if check.name in ("decodes", "ends_right", "theta_one_bos", "teacher_one_bos"):
        return metadata.unknown if metadata.vocabulary is None else lacking
    reasons = {
        "fallback_rate_at_position": "no range of positions holds 100 tokens",
        "quarantine_rate": "the dataset has no manifest",
        "copy_rate": "the source has no reference, or the dataset no `example`",
        "gap_rate": "no token is mixed",
        "correct_rate": "the source has no final answer, or the dataset no `example`",
        "leak_rate": "the source has no reference, or the dataset no `example` beside both prompts",
        "reference_rate": "the teacher's template does not name the reference",
    }
    return reasons.get(check.name, lacking)


def _sum(before: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Return two results of one expectation over different rows as one."""
    one, other = before["result"], result["result"]
    counts = {name: one[name] + other[name] for name in ("element_count", "missing_count", "unexpected_count")}
    numbers = [number for each in (one, other) for number in each.get("partial_unexpected_index_list", [])]
    summed = {
        **counts,
        "unexpected_percent": 100.0 * counts["unexpected_count"] / max(1, counts["element_count"]),
        "partial_unexpected_index_list": numbers[:MAX_ROW_NUMBERS],
    }
    return {**before, "success": before["success"] and result["success"], "result": summed}


def _quiet_context() -> EphemeralDataContext:
    """Return a context in memory: no files, no usage statistics, no progress bars, no documentation site."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    return gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )


def _checkpoint(
    context: EphemeralDataContext, name: str, checks: list[Check], result_format: dict[str, Any]
) -> Checkpoint:
    """Return a checkpoint over a data frame that each run is given."""
    import great_expectations as gx

    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    suite = context.suites.add(gx.ExpectationSuite(name, expectations=[check.expectation() for check in checks]))
    assert len(suite.expectations) == len(checks), "Great Expectations dropped an expectation"
    validation = gx.ValidationDefinition(name=name, data=asset.add_batch_definition_whole_dataframe(name), suite=suite)
    validations = [context.validation_definitions.add(validation)]
    return context.checkpoints.add(
        gx.Checkpoint(name=name, validation_definitions=validations, result_format=result_format)
    )


def _run(checkpoint: Checkpoint, frame: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """Return each check's name with its result over one data frame. Raise RuntimeError where one cannot be judged."""
    (validation,) = checkpoint.run(batch_parameters={"dataframe": frame}).run_results.values()
    results: list[dict[str, Any]] = validation.to_json_dict()["results"]
    for result in results:
        if "unexpected_count" not in result["result"]:
            raise RuntimeError(f"Great Expectations could not judge: {result['exception_info']}")
    return [(result["expectation_config"]["meta"]["name"], result) for result in results]
