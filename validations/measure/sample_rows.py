"""Picker of the rows that a report shows: the worst by each metric, and samples in full."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from sampling.results import MODES
from validations.measure.aggregates import SampleRow, WorstRow
from validations.measure.metadata import Vocabulary
from validations.measure.tokens import Tokens

NUM_SAMPLES = 8  # rows in full, evenly spread over the dataset
NUM_WORST = 5  # rows a metric
MAX_TOKENS, MAX_PROMPT_CHARS, MAX_EXCERPT_CHARS = 400, 4000, 160
# Columns shown of each token.
TOKEN_FIELDS = ("alpha", "kl_error", "logprob_q", "logprob_theta", "logprob_teacher")
# Metric of a row → whether its largest or its smallest values are the worst.
WORST = {
    "max_kl_error": "largest",
    "fallback_rate": "largest",
    "mean_js": "largest",
    "mean_overlap_mass": "smallest",
    "num_tokens": "largest",
    "copied_words": "largest",
    "gap_rate": "largest",
}
FROM_ONE = ("copied_words", "gap_rate")  # none of it is no fault
# Columns of a row in a table of the worst, and in full; a row's lists take 20 objects a token.
TEXTS = ("id", "sample_idx", "finish_reason", "num_tokens", "completion")
PROMPTS = ("theta_prompt", "teacher_prompt", "example")
IN_FULL = {"max_kl_error": "largest KL error", "fallback_rate": "most fallback tokens"}


@dataclass(slots=True)
class SampleRowPicker:
    """Picker of rows from batches; the samples are spread over the dataset's `num_rows`."""

    num_rows: int
    vocabulary: Vocabulary | None
    _num_seen: int = 0
    _samples: list[SampleRow] = field(default_factory=list)
    _extremes: dict[str, tuple[float, SampleRow]] = field(default_factory=dict)
    _worst: dict[str, list[tuple[float, WorstRow]]] = field(default_factory=dict)

    def add(self, table: pa.Table, tokens: Tokens, rows: pd.DataFrame, grades: dict[int, bool | None]) -> None:
        """Add a batch: its table, its frame of `measure_rows`, the grades of some rows by their index."""
        for wanted in np.linspace(0, self.num_rows - 1, min(NUM_SAMPLES, self.num_rows)).astype(int):
            index = int(wanted) - self._num_seen
            if 0 <= index < len(table):
                why = f"row {wanted + 1} of {self.num_rows}"
                self._samples.append(self._in_full(table, tokens, index, why, grades.get(index)))
        for metric, kind in WORST.items():
            if metric not in rows:
                continue
            badness = rows[metric].to_numpy(dtype="float64") * (1 if kind == "largest" else -1)
            badness = np.where(np.isnan(badness) | ((metric in FROM_ONE) & (badness == 0)), -np.inf, badness)
            self._rank(metric, badness, table, rows)
            worst = int(badness.argmax())
            if metric in IN_FULL and badness[worst] > max(0.0, self._extremes.get(metric, (0.0, None))[0]):
                row = self._in_full(table, tokens, worst, IN_FULL[metric], grades.get(worst))
                self._extremes[metric] = (float(badness[worst]), row)
        self._num_seen += len(table)

    def worst(self) -> list[WorstRow]:
        """Return the worst rows, metric by metric."""
        return [row for ranked in self._worst.values() for _, row in ranked]

    def samples(self) -> list[SampleRow]:
        """Return rows in full, each once; those picked by a metric last."""
        samples = {(row.id, row.sample_idx): row for row in self._samples}
        for _, row in self._extremes.values():
            samples.setdefault((row.id, row.sample_idx), row)
        return list(samples.values())

    def _rank(self, metric: str, badness: np.ndarray, table: pa.Table, rows: pd.DataFrame) -> None:
        ranked = self._worst.setdefault(metric, [])
        for index in np.argsort(-badness, kind="stable")[:NUM_WORST]:
            if np.isneginf(badness[index]) or (len(ranked) == NUM_WORST and badness[index] <= ranked[-1][0]):
                break
            row = table.select(TEXTS).slice(int(index), 1).to_pylist()[0]
            ranked.append((float(badness[index]), _worst_row(row, metric, float(rows[metric].iloc[index]))))
            ranked.sort(key=lambda pair: -pair[0])
            del ranked[NUM_WORST:]

    def _in_full(self, table: pa.Table, tokens: Tokens, index: int, why: str, correct: bool | None) -> SampleRow:
        known = [*TEXTS, *(name for name in PROMPTS if name in table.column_names)]
        row: dict[str, Any] = table.select(known).slice(index, 1).to_pylist()[0]
        begin, end = int(tokens.starts[index]), int(tokens.starts[index + 1])
        stop = min(end, begin + MAX_TOKENS)
        token_ids = tokens.token_ids[begin:stop].tolist()
        example = row.get("example") or {}
        return SampleRow(
            id=row["id"] or "",
            sample_idx=row["sample_idx"] or 0,
            why=why,
            theta_prompt=_cut(row.get("theta_prompt"), MAX_PROMPT_CHARS),
            teacher_prompt=_cut(row.get("teacher_prompt"), MAX_PROMPT_CHARS),
            completion=_cut(row["completion"], MAX_PROMPT_CHARS) or "",
            finish_reason=row["finish_reason"] or "",
            reference=_cut(example.get("final_answer") or example.get("answer"), MAX_PROMPT_CHARS),
            is_correct=correct,
            pieces=self.vocabulary.pieces(token_ids) if self.vocabulary else [f"⟨{token}⟩" for token in token_ids],
            mode=[MODES[mode] if mode >= 0 else "unknown" for mode in tokens.mode[begin:stop]],
            num_left_out=end - stop,
            **{name: tokens.columns[name][begin:stop].tolist() for name in TOKEN_FIELDS},
        )


def _worst_row(row: dict[str, Any], metric: str, value: float) -> WorstRow:
    excerpt = _cut(row["completion"], MAX_EXCERPT_CHARS) or ""
    reason, num_tokens = row["finish_reason"] or "", row["num_tokens"] or 0
    return WorstRow(row["id"] or "", row["sample_idx"] or 0, metric, value, num_tokens, reason, excerpt)


def _cut(text: str | None, num_chars: int) -> str | None:
    if text is None or len(text) <= num_chars:
        return text
    return f"{text[:num_chars]}… ({len(text) - num_chars} more characters)"
