"""Table of checks: three suites of expectations, over prompts, completions and per-token values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from validations.limits import Limits, Rule
from validations.verdict import SUITES, Suite

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

FINISH_REASONS = ("eos", "stop", "length")


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation over a metric of each row or of the whole dataset."""

    name: str  # of the metric
    suite: Suite
    meaning: str  # what is wrong when it fails
    judges: Literal["rows", "dataset"] = "rows"
    rule: Rule = "refuse"
    least: float | None = None
    most: float | None = None
    among: tuple[str, ...] | None = None  # allowed values; None without a bound: the metric must be True
    strict: bool = False  # the bound itself is outside
    metric: str | None = None  # of the dataset, reported in place of the first failing row's value

    @property
    def limit(self) -> str:
        """Return the limit as text."""
        if self.among:
            return " or ".join(self.among)
        if self.least is not None:
            return f"{'>' if self.strict else '≥'} {self.least:g}"
        return "True" if self.most is None else f"{'<' if self.strict else '≤'} {self.most:g}"

    def expectation(self) -> Expectation:
        """Return the Great Expectations object."""
        import great_expectations.expectations as gxe

        meta = {"name": self.name, "notes": {"format": "markdown", "content": [f"Else {self.meaning}."]}}
        common: dict[str, Any] = {"severity": "critical" if self.rule == "refuse" else "warning", "meta": meta}
        if self.least is not None or self.most is not None:
            bounds = {"min_value": self.least, "max_value": self.most}
            if self.strict:
                bounds |= {"strict_min": self.least is not None, "strict_max": self.most is not None}
            return gxe.ExpectColumnValuesToBeBetween(column=self.name, **bounds, **common)
        return gxe.ExpectColumnValuesToBeInSet(column=self.name, value_set=list(self.among or (True,)), **common)


def checks(limits: Limits, *, kl_symmetric: bool) -> list[Check]:
    """Return every check that is not off, in the order of the suites."""
    found = [*_prompts(limits), *_completions(limits), *_tokens(limits)]
    if not kl_symmetric:  # α does not solve KL symmetry there
        found = [check for check in found if check.name != "max_kl_error"]
    return [_with_rule(check, limits.severity) for check in found if limits.severity.get(check.name) != "off"]


def check_names() -> list[str]:
    """Return the names that `severity` may hold."""
    return [check.name for check in checks(Limits(), kl_symmetric=True)]


def prompt_checks(limits: Limits) -> list[Check]:
    """Return the refusing checks of prompts, which can be judged before any token is sampled."""
    rates = ("quarantine_rate", "question_rate", "leak_rate", "reference_rate")
    return [check for check in checks(limits, kl_symmetric=True) if check.name in rates and check.rule == "refuse"]


def probe_checks(limits: Limits) -> list[Check]:
    """Return the checks that stop a hopeless run early; none where the limits let everything pass."""
    hopeless = []
    if limits.fallback_rate_max < 1 and limits.severity.get("fallback_rate", "refuse") == "refuse":
        meaning = "every token falls back to the teacher"
        hopeless.append(Check("fallback_rate", SUITES[2], meaning, "dataset", most=1, strict=True))
    if limits.eos_rate_min > 0 and limits.severity.get("eos_rate", "refuse") == "refuse":
        meaning = "no completion comes to an end"
        hopeless.append(Check("eos_rate", SUITES[1], meaning, "dataset", least=0, strict=True))
    return hopeless


def _prompts(limits: Limits) -> list[Check]:
    suite: Suite = SUITES[0]
    return [
        Check("has_id", suite, "a row has no id, or no sample_idx"),
        Check("num_duplicates", suite, "an (id, sample_idx) is there twice", "dataset", most=0),
        Check(
            "quarantine_rate", suite, "too many rows were quarantined", "dataset", most=limits.quarantine_rate_max
        ),
        Check("theta_not_empty", suite, "theta's prompt is empty"),
        Check("teacher_not_empty", suite, "the teacher's prompt is empty"),
        Check("messages_agree", suite, "messages do not end with the row's question and completion"),
        Check("theta_one_bos", suite, "theta's prompt begins with BOS twice"),
        Check("teacher_one_bos", suite, "the teacher's prompt begins with BOS twice"),
        Check(
            "question_rate", suite, "a prompt lacks the question, or has it outside the user's turn", "dataset",
            least=limits.question_rate_min,
        ),
        Check(
            "leak_rate", suite, "the reference stands in theta's prompt", "dataset", most=limits.leak_rate_max
        ),
        Check(
            "reference_rate", suite, "the teacher's prompt lacks the reference that its template names", "dataset",
            least=limits.reference_rate_min,
        ),
    ]  # fmt: skip


def _completions(limits: Limits) -> list[Check]:
    suite: Suite = SUITES[1]
    return [
        Check("num_rows", suite, "the dataset is empty", "dataset", least=1),
        Check("num_tokens", suite, "a completion has no token", least=1),
        Check("finish_reason", suite, "a finish reason is unknown", among=FINISH_REASONS),
        Check("decodes", suite, "a completion's text is not what its token ids spell"),
        Check("ends_right", suite, "a token follows EOS, or the finish reason is not how the ids end"),
        Check("empty_rate", suite, "completions without text", "dataset", most=limits.empty_rate_max),
        Check("eos_rate", suite, "too few completions come to an end", "dataset", least=limits.eos_rate_min),
        Check(
            "length_rate", suite, "completions are cut at max_tokens", "dataset", "warn", most=limits.length_rate_max
        ),
        Check("loop_rate", suite, "completions repeat themselves", "dataset", most=limits.loop_rate_max),
        Check(
            "duplicate_rate", suite, "the same prompt has the same completion again", "dataset", "warn",
            most=limits.duplicate_rate_max,
        ),
        Check("garbled_rate", suite, "completions hold broken characters", "dataset", most=limits.garbled_rate_max),
        Check(
            "stray_rate", suite, "completions drift into another script", "dataset", "warn", most=limits.stray_rate_max
        ),
        Check(
            "privilege_rate", suite, "completions speak of what the teacher alone was shown", "dataset", "warn",
            most=limits.privilege_rate_max,
        ),
        Check(
            "copy_rate", suite, "completions copy the reference's words", "dataset", "warn", most=limits.copy_rate_max
        ),
        Check(
            "uncertainty_rate", suite, "completions are too sure of themselves", "dataset", "warn",
            least=limits.uncertainty_rate_min,
        ),
        Check(
            "correct_rate", suite, "too few final answers are right", "dataset", least=limits.correct_rate_min
        ),
    ]  # fmt: skip


def _tokens(limits: Limits) -> list[Check]:
    suite: Suite = SUITES[2]
    return [
        Check("lists_align", suite, "a list is not as long as token_ids"),
        Check("is_finite", suite, "a figure is missing, NaN or infinite"),
        Check("mode_is_known", suite, "a token's mode is unknown"),
        Check("figures_follow", suite, "a row's means and counts are not those of its tokens"),
        Check(
            "max_kl_error", suite, "KL(q*‖π_θ) ≠ KL(q*‖π_t) on a mixed token", most=limits.kl_error_max,
            metric="kl_error_max",
        ),
        Check("kl_error_is_the_kls_distance", suite, "kl_error is not |kl_theta − kl_teacher|"),
        Check("kls_not_negative", suite, "a KL divergence is negative"),
        Check("alpha_in_range", suite, "an α lies outside [0, 1]"),
        Check("alpha_is_one_unless_mixed", suite, "α is not 1 on a forced or fallback token"),
        Check("js_in_range", suite, "a JS divergence lies outside [0, ln 2]"),
        Check("overlap_in_range", suite, "an overlap mass lies outside [0, 1]"),
        Check("logprobs_not_positive", suite, "a logprob is above 0"),
        Check("q_is_consistent", suite, "log q* ≠ (1−α)·log π_θ + α·log π_t − log Z"),
        Check("ess_ratio_in_range", suite, "an ESS ratio is negative"),
        Check("entropy_in_range", suite, "an entropy is above that of its support, or negative"),
        Check("fallback_rate", suite, "too many tokens fall back", "dataset", most=limits.fallback_rate_max),
        Check(
            "fallback_rate_at_position", suite, "too many tokens fall back at one position", "dataset", "warn",
            most=limits.fallback_rate_at_position_max,
        ),
        Check(
            "gap_rate", suite, "too many tokens that the teacher alone expects", "dataset", "warn",
            most=limits.gap_rate_max,
        ),
    ]  # fmt: skip


def _with_rule(check: Check, severity: Mapping[str, Rule]) -> Check:
    return replace(check, rule=severity[check.name]) if check.name in severity else check
