"""The bench of a gate: Great Expectations over the figures of rows, then over those of the whole dataset.

It judges scalars alone. It never sees the per-token lists, for which it takes minutes.
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

SHOWN_CHARACTERS = 64  # of a value or an id, in a line
NUM_SHOWN = 20  # values that broke an expectation, in its result


class ExpectationRunner:
    """The checks of one verdict, with what Great Expectations has found so far."""

    def __init__(self, asked: list[Check]) -> None:
        self._checks = asked
        self._context = _quiet_context()
        self._found: dict[str, dict[str, Any]] = {}  # Great Expectations' result by the check's name
        self._first_broken: dict[str, str] = {}  # which row broke it first
        self._rows_checkpoint: Checkpoint | None = None
        self.first_rows: dict[str, str] = {}  # of checks of the whole dataset, where a row can be named

    def judge_rows(self, rows: pd.DataFrame) -> None:
        """Judge some rows; the results of all calls are added up."""
        asked = [check for check in self._checks if check.judges == "rows" and check.name in rows]
        if self._rows_checkpoint is None:
            self._rows_checkpoint = _checkpoint(self._context, "rows", asked)
        judged = rows[list(dict.fromkeys(check.name for check in asked))]
        for name, result in _run(self._rows_checkpoint, judged):
            if not result["success"] and name not in self._first_broken:
                self._first_broken[name] = _first_broken(rows, next(c for c in asked if c.name == name))
            before = self._found.get(name)
            self._found[name] = result if before is None else _added(before, result)

    def judge_dataset(self, metrics: Metrics) -> None:
        """Judge the figures of the whole dataset."""
        asked = [check for check in self._checks if check.judges == "dataset" and metrics.get(check.name) is not None]
        frame = pd.DataFrame([{check.name: metrics[check.name] for check in asked}])
        self._found.update(_run(_checkpoint(self._context, "dataset", asked), frame))

    def check_results(self, metrics: Metrics, facts: DatasetMetadata) -> list[CheckResult]:
        """Each check's outcome, over all that was judged."""
        return [self._check_result(check, metrics, facts) for check in self._checks]

    def _check_result(self, check: Check, metrics: Metrics, facts: DatasetMetadata) -> CheckResult:
        said: dict[str, Any] = {
            "name": check.name,
            "suite": check.suite,
            "severity": "refuse" if check.rule == "refuse" else "warn",
            "meaning": check.meaning,
            "limit": check.limit,
        }
        found = self._found.get(check.name)
        if found is None:
            kind = type(check.expectation()).__name__
            return CheckResult(**said, expectation=kind, outcome="not judged", why=_why_not(check, metrics, facts))
        said["expectation"] = found["expectation_config"]["type"]
        value: Any = metrics.get(check.figure or check.name)
        if check.judges == "dataset":
            first = "" if found["success"] else self.first_rows.get(check.name, "")
            return CheckResult(**said, outcome="passed" if found["success"] else "failed", value=value, why=first)
        num_outside = int(found["result"]["unexpected_count"])
        if found["success"]:
            return CheckResult(**said, outcome="passed", value=value, num_outside=0)
        if check.figure is None:
            value = self._first_broken[check.name]
        return CheckResult(**said, outcome="failed", value=value, num_outside=num_outside)

    def suite_result(self, suite: Suite) -> dict[str, Any]:
        """What was found of a suite, as Great Expectations writes it down."""
        names = [check.name for check in self._checks if check.suite == suite and check.name in self._found]
        results = [self._found[name] for name in names]
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


def _first_broken(rows: pd.DataFrame, check: Check) -> str:
    """The value of the first row outside, and which row it is."""
    values = rows[check.name]
    if check.least is not None or check.most is not None:
        outside = ~values.between(-float("inf") if check.least is None else check.least,
                                  float("inf") if check.most is None else check.most)  # fmt: skip
    else:
        outside = ~values.isin(check.among or (True,))
    first = rows[outside].iloc[0]
    value = first[check.name]
    shown = repr(value) if isinstance(value, str) else str(value)
    return f"{shown[:SHOWN_CHARACTERS]} (row {str(first['id'])[:SHOWN_CHARACTERS]}, sample {first['sample_idx']})"


def _why_not(check: Check, metrics: Metrics, facts: DatasetMetadata) -> str:
    lacking = "the dataset lacks the columns it takes"
    if not metrics.get("num_rows"):
        return "there is no row"
    if check.name in ("decodes", "ends_right", "theta_one_bos", "teacher_one_bos"):
        return facts.unknown if facts.vocabulary is None else lacking
    reasons = {
        "fallback_rate_at_position": "no range of positions holds 100 tokens",
        "correct_rate": "the source has no final answer, or the dataset no `example`",
        "leak_rate": "the source has no reference, or the dataset no `example` beside both prompts",
        "reference_rate": "the teacher's template does not name the reference",
    }
    return reasons.get(check.name, lacking)


def _added(before: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Two results of one expectation, over different rows, as one."""
    one, other = before["result"], result["result"]
    counts = {
        name: one.get(name, 0) + other.get(name, 0) for name in ("element_count", "missing_count", "unexpected_count")
    }
    percent = 100.0 * counts["unexpected_count"] / max(1, counts["element_count"])
    shown = [*one.get("partial_unexpected_list", []), *other.get("partial_unexpected_list", [])][:NUM_SHOWN]
    added = {**counts, "unexpected_percent": percent, "partial_unexpected_list": shown}
    return {**before, "success": before["success"] and result["success"], "result": added}


def _quiet_context() -> EphemeralDataContext:
    """A context in memory: no files, no usage statistics, no progress bars, no documentation site."""
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


def _checkpoint(context: EphemeralDataContext, name: str, asked: list[Check]) -> Checkpoint:
    """A checkpoint over a data frame given at each run."""
    import great_expectations as gx

    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    expectations = [check.expectation() for check in asked]
    suite = context.suites.add(gx.ExpectationSuite(name, expectations=expectations))
    assert len(suite.expectations) == len(expectations), "Great Expectations dropped an expectation"
    validation = gx.ValidationDefinition(name=name, data=asset.add_batch_definition_whole_dataframe(name), suite=suite)
    return context.checkpoints.add(
        gx.Checkpoint(
            name=name,
            validation_definitions=[context.validation_definitions.add(validation)],
            result_format={"result_format": "SUMMARY"},
        )
    )


def _run(checkpoint: Checkpoint, frame: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """The result of each expectation over one data frame, by its check's name."""
    (validation,) = checkpoint.run(batch_parameters={"dataframe": frame}).run_results.values()
    results: list[dict[str, Any]] = validation.to_json_dict()["results"]
    for result in results:
        if "unexpected_count" not in result["result"]:
            raise RuntimeError(f"Great Expectations could not judge: {result['exception_info']}")
    return [(result["expectation_config"]["meta"]["name"], result) for result in results]
