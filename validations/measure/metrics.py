"""Metrics of a dataset, summed batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from sampling.results import FALLBACK, FORCED, MIXED
from validations.measure.aggregates import Metrics
from validations.measure.leaks import LeakCount
from validations.measure.prompts import PromptMetrics
from validations.measure.tokens import GAP_NATS, Tokens, gaps

ENDED = ("eos", "stop")
FLAGS = {
    "empty": "empty_rate", "loops": "loop_rate", "garbled": "garbled_rate", "strays": "stray_rate",
    "privileged": "privilege_rate", "copies": "copy_rate",
}  # fmt: skip
SUMS = ("num_doubts", "copied_words")
MEANS = (
    "alpha", "js", "overlap_mass", "entropy", "logprob_q", "logprob_teacher", "logprob_theta",
)  # fmt: skip


@dataclass(slots=True)
class MetricSums:
    """Sums over batches of rows, with 16 bytes a row to find duplicates."""

    _sums: dict[str, float] = field(default_factory=dict)
    _kl_error_max: float = -np.inf
    _keys: list[np.ndarray] = field(default_factory=list)
    _texts: list[np.ndarray] = field(default_factory=list)
    _leaks: LeakCount = field(default_factory=LeakCount)
    _first: dict[str, str] = field(default_factory=dict)

    def add_rows(self, rows: pd.DataFrame, keys: np.ndarray, texts: np.ndarray | None) -> None:
        """Add a frame of `measure_rows`, with hashes [N] uint64 of (id, sample_idx), and of prompt and completion."""
        # 64 bits: two of ten million hashes collide with a chance of 3 in a million.
        self._keys.append(keys)
        if texts is not None:
            self._texts.append(texts)
        self._add("num_rows", len(rows))
        self._add("num_ended", float(rows["finish_reason"].isin(ENDED).sum()))
        self._add("num_length", (rows["finish_reason"] == "length").sum())
        for name in FLAGS:
            if name in rows:
                self._add(f"num_{name}", rows[name].sum())
        for name in SUMS:
            if name in rows:
                self._add(name, rows[name].sum())
        if rows["max_kl_error"].notna().any():
            self._kl_error_max = max(self._kl_error_max, float(rows["max_kl_error"].max()))

    def add_tokens(self, tokens: Tokens) -> None:
        """Add the rows' tokens."""
        self._add("num_tokens", len(tokens))
        for name, mode in (("mixed", MIXED), ("forced", FORCED), ("fallback", FALLBACK)):
            self._add(f"num_{name}", float(np.count_nonzero(tokens.mode == mode)))
        self._add("num_gaps", float(np.count_nonzero(gaps(tokens) > GAP_NATS)))
        for name in MEANS:
            self._add(f"mean_{name}", tokens.columns[name].sum(dtype=np.float64))

    def add_prompts(self, prompts: PromptMetrics, names: Sequence[str] = ()) -> None:
        """Add the metrics of the rows' prompts; `names` [N] are the rows' names in a message."""
        if prompts.question is not None:
            self._add("num_examples", len(prompts.question))
            self._add("num_questions", prompts.question.sum())
        if prompts.referenced is not None and prompts.carried is not None:
            self._add("num_referenced", prompts.referenced.sum())
            self._add("num_carried", (prompts.referenced & prompts.carried).sum())
        if prompts.frames is not None and prompts.leaked is not None:
            self._leaks.add(prompts.frames, prompts.leaked, names)
        if names and prompts.question is not None:
            self._note("question_rate", ~prompts.question, names)
        if names and prompts.referenced is not None and prompts.carried is not None:
            self._note("reference_rate", prompts.referenced & ~prompts.carried, names)

    def add_flags(self, rows: pd.DataFrame, names: Sequence[str]) -> None:
        """Note the first row of each rate over completions."""
        for column, check in FLAGS.items():
            if column in rows:
                self._note(check, rows[column].to_numpy(dtype=bool), names)
        self._note("length_rate", (rows["finish_reason"] == "length").to_numpy(), names)

    def first_rows(self) -> dict[str, str]:
        """Return `first: row …`, the first row behind each check of the whole dataset, by the check's name."""
        leak = self._leaks.first_leak()
        first = self._first | ({"leak_rate": leak} if leak else {})
        return {check: f"first: {row}" for check, row in first.items()}

    def _note(self, check: str, found: np.ndarray, names: Sequence[str]) -> None:
        if check not in self._first and found.any():
            self._first[check] = names[int(found.argmax())]

    def add_grades(self, grades: list[bool | None]) -> None:
        """Add right, wrong, or not judged in time, for the completions that have a final answer."""
        self._add("num_graded", sum(grade is not None for grade in grades))
        self._add("num_ungraded", sum(grade is None for grade in grades))
        self._add("num_correct", sum(grade is True for grade in grades))

    def metrics(self, *, teacher_sees_reference: bool) -> Metrics:
        """Return rates over rows or tokens, means over tokens; None where nothing was counted or a sum is infinite."""
        sums = {"num_rows": 0.0, **self._sums}
        metrics: Metrics = {
            "num_rows": int(sums["num_rows"]),
            "num_tokens": int(sums.get("num_tokens", 0)),
            "num_duplicates": _num_repeated(self._keys),
            "mean_num_tokens": _ratio(sums, "num_tokens", "num_rows"),
            "eos_rate": _ratio(sums, "num_ended", "num_rows"),
            "length_rate": _ratio(sums, "num_length", "num_rows"),
            "mixed_rate": _ratio(sums, "num_mixed", "num_tokens"),
            "forced_rate": _ratio(sums, "num_forced", "num_tokens"),
            "fallback_rate": _ratio(sums, "num_fallback", "num_tokens"),
            "kl_error_max": self._kl_error_max if np.isfinite(self._kl_error_max) else None,
            **{f"mean_{name}": _ratio(sums, f"mean_{name}", "num_tokens") for name in MEANS},
            "empty_rate": _ratio(sums, "num_empty", "num_rows"),
            "loop_rate": _ratio(sums, "num_loops", "num_rows"),
            "garbled_rate": _ratio(sums, "num_garbled", "num_rows"),
            "stray_rate": _ratio(sums, "num_strays", "num_rows"),
            "privilege_rate": _ratio(sums, "num_privileged", "num_rows"),
            "copy_rate": _ratio(sums, "num_copies", "num_rows"),
            "mean_copied_words": _ratio(sums, "copied_words", "num_rows"),
            "uncertainty_rate": _ratio(sums, "num_doubts", "num_tokens"),
            "gap_rate": _ratio(sums, "num_gaps", "num_mixed"),
            "duplicate_rate": _num_repeated(self._texts) / sums["num_rows"] if self._texts else None,
            "num_graded": int(sums.get("num_graded", 0)),
            "num_ungraded": int(sums.get("num_ungraded", 0)),
            "correct_rate": _ratio(sums, "num_correct", "num_graded"),
            "question_rate": _ratio(sums, "num_questions", "num_examples"),
            "reference_rate": _ratio(sums, "num_carried", "num_referenced") if teacher_sees_reference else None,
            "leak_rate": None,
        }
        if sums.get("num_referenced"):
            metrics["leak_rate"] = self._leaks.num_leaks() / sums["num_referenced"]
        return metrics

    def _add(self, name: str, value: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(value)


def _num_repeated(batches: list[np.ndarray]) -> int:
    """Return how many hashes repeat an earlier one."""
    if not batches:
        return 0
    hashes = np.concatenate(batches)
    return len(hashes) - len(np.unique(hashes))


def _ratio(sums: dict[str, float], numerator: str, denominator: str) -> float | None:
    """Return None where it was not counted, for an empty denominator, or a sum that is not finite (JSON has none)."""
    if not sums.get(denominator) or numerator not in sums:
        return None
    value = sums[numerator] / sums[denominator]
    return value if np.isfinite(value) else None
