"""What the gate found of a dataset."""

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
    """One expectation over the whole dataset."""

    name: str  # a row's figure (`decodes`) or a dataset's (`leak_rate`)
    suite: Suite
    severity: Severity
    expectation: str  # Great Expectations' name of it
    meaning: str  # what is wrong when it fails, in words
    limit: str  # `≤ 0.5`
    outcome: Outcome
    value: float | int | str | bool | None = None  # the dataset's figure, or the first row's that broke it
    num_outside: int | None = None  # rows that broke it; None where the dataset was judged as a whole
    why: str = ""  # it was not judged; or the first row that a failed check of the whole dataset is about

    def line(self, num_rows: int | None) -> str:
        """`expectation(name): limit …, value …`, with the number of rows outside where rows were judged."""
        shown = f"{self.value:.6g}" if isinstance(self.value, float) else str(self.value)
        rows = "" if self.num_outside is None else f" in {self.num_outside} of {num_rows} rows"
        first = f" (first: {self.why})" if self.why else ""
        return f"{self.expectation}({self.name}): limit {self.limit}, value {shown}{rows}: {self.meaning}{first}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a dataset may be published, why not, what it is like."""

    checks: tuple[CheckResult, ...]
    metrics: Metrics
    aggregates: Aggregates
    results: dict[Suite, dict[str, Any]] = field(default_factory=dict)  # Great Expectations' own, JSON, a suite each

    @property
    def passed(self) -> bool:
        """Nothing that refuses has failed."""
        return not self.refusals

    @property
    def refusals(self) -> tuple[str, ...]:
        """One line an expectation that keeps the dataset back."""
        return self._lines("refuse")

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line an expectation that failed without keeping it back."""
        return self._lines("warn")

    def _lines(self, severity: Severity) -> tuple[str, ...]:
        failed = (check for check in self.checks if check.outcome == "failed" and check.severity == severity)
        num_rows = self.metrics.get("num_rows")
        return tuple(check.line(None if num_rows is None else int(num_rows)) for check in failed)
