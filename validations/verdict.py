"""Verdict of the gate: the outcome of every check, with the dataset's metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from validations.measure.aggregates import Aggregates, Metrics

Suite = Literal["prompts", "completions", "tokens"]
Severity = Literal["refuse", "warn"]
Outcome = Literal["passed", "failed", "not judged"]
SUITES: tuple[Suite, ...] = ("prompts", "completions", "tokens")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Outcome of one check over the whole dataset."""

    name: str  # a row's metric (`decodes`) or a dataset's (`leak_rate`)
    suite: Suite
    severity: Severity
    expectation: str  # Great Expectations' type
    meaning: str  # what is wrong when it fails
    limit: str  # `≤ 0.5`
    outcome: Outcome
    value: float | int | str | bool | None = None  # the dataset's metric, or the first failing row's
    num_outside: int | None = None  # failing rows; None where the dataset was judged as a whole
    why: str = ""  # why it was not judged; or what is behind a failed check of the whole dataset

    def line(self, num_rows: int | None) -> str:
        """Return `expectation(name): limit …, value …`, with the number of failing rows where rows were judged."""
        value = f"{self.value:.6g}" if isinstance(self.value, float) else str(self.value)
        rows = "" if self.num_outside is None else f" in {self.num_outside} of {num_rows} rows"
        first = f" ({self.why})" if self.why else ""
        return f"{self.expectation}({self.name}): limit {self.limit}, value {value}{rows}: {self.meaning}{first}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Judgement of a dataset: whether it may be published, and what it contains."""

    checks: tuple[CheckResult, ...]
    metrics: Metrics
    aggregates: Aggregates
    results: dict[Suite, dict[str, Any]] = field(default_factory=dict)  # JSON of Great Expectations, by suite

    @property
    def passed(self) -> bool:
        """Whether no refusing check has failed."""
        return not self.refusals

    @property
    def refusals(self) -> tuple[str, ...]:
        """One line for each failed check that keeps the dataset from being published."""
        return self._lines("refuse")

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each other failed check."""
        return self._lines("warn")

    def _lines(self, severity: Severity) -> tuple[str, ...]:
        failed = (check for check in self.checks if check.outcome == "failed" and check.severity == severity)
        num_rows = self.metrics.get("num_rows")
        return tuple(check.line(None if num_rows is None else int(num_rows)) for check in failed)
