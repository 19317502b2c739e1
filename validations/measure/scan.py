"""Dataset scan: one streaming pass that measures each row and the whole dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from validations.measure import completions
from validations.measure.aggregates import Aggregates, Metrics
from validations.measure.correctness import MAX_JUDGED, Grader
from validations.measure.histograms import TokenHistograms
from validations.measure.metadata import DatasetMetadata
from validations.measure.metrics import MetricSums
from validations.measure.prompts import PromptMetrics, judge_prompts
from validations.measure.reading import read_batches
from validations.measure.sample_rows import SampleRowPicker
from validations.measure.tokens import (
    Tokens,
    flatten,
    gap_rate,
    judge_tokens,
    max_kl_error,
    metrics_match_tokens,
)
from validations.text.guidance import COPIED_WORDS, PHRASES, copied_words, count_doubts, privileged


class DatasetScan:
    """One pass over a dataset, batch by batch, that keeps 16 bytes a row in memory."""

    def __init__(
        self, parquet_files: Sequence[Path], metadata: DatasetMetadata, phrases: Sequence[str] | None = None
    ) -> None:
        """Take the privilege phrases, None for the known ones."""
        self._files, self._metadata = parquet_files, metadata
        self._phrases = PHRASES if phrases is None else phrases
        num_rows = sum(pq.read_metadata(path).num_rows for path in parquet_files)
        self._grade_every = max(1, -(-num_rows // MAX_JUDGED))
        self._num_seen = 0
        self._sums, self._histograms = MetricSums(), TokenHistograms()
        self._picker = SampleRowPicker(num_rows, metadata.vocabulary)

    def frames(self) -> Iterator[pd.DataFrame]:
        """Yield the metrics of each batch's rows; a check's column is left out where its inputs are not known."""
        with Grader() as grader:
            for table in read_batches(self._files):
                yield self._add(table, grader)

    def metrics(self) -> Metrics:
        """Return the metrics of the whole dataset, after the pass."""
        metrics = self._sums.metrics(teacher_sees_reference=self._metadata.teacher_sees_reference)
        quarantine = self._metadata.quarantine
        return metrics | {
            "fallback_rate_at_position": self._histograms.max_fallback_rate(),
            "quarantine_rate": quarantine.rate(self._num_seen) if quarantine else None,
        }

    def first_rows(self) -> dict[str, str]:
        """Return the first row behind each check of the whole dataset, after the pass."""
        quarantine = self._metadata.quarantine
        return self._sums.first_rows() | ({"quarantine_rate": quarantine.counts()} if quarantine else {})

    def aggregates(self) -> Aggregates:
        """Return what a report is drawn from, after the pass."""
        return Aggregates(
            **self._histograms.histograms(),
            num_tokens=self._histograms.lengths(),
            by_position=self._histograms.by_position(),
            correctness=self._histograms.correctness(),
            gaps=self._histograms.gaps(self._metadata.vocabulary),
            worst=self._picker.worst(),
            samples=self._picker.samples(),
        )

    def _add(self, table: pa.Table, grader: Grader) -> pd.DataFrame:
        tokens = flatten(table)
        prompts = judge_prompts(table, self._metadata)
        rows = measure_rows(table, tokens, prompts, self._metadata, self._phrases)
        grades = self._grade(table, grader)
        texts = None
        if "theta_prompt" in table.column_names:
            texts = completions.text_hashes(_column(table, "theta_prompt"), _column(table, "completion"))
        keys = pd.util.hash_pandas_object(rows[["id", "sample_idx"]], index=False).to_numpy()
        self._sums.add_rows(rows, keys, texts)
        self._sums.add_tokens(tokens)
        names = [f"row {str(row)[:64]}, sample {k}" for row, k in zip(rows["id"], rows["sample_idx"], strict=True)]
        self._sums.add_prompts(prompts, names)
        self._sums.add_flags(rows, names)
        self._sums.add_grades(list(grades.values()))
        self._histograms.add(tokens)
        for reason, ended in rows.groupby("finish_reason"):
            self._histograms.add_lengths(str(reason), ended["num_tokens"].clip(lower=0).to_numpy())
        judged = [index for index, grade in grades.items() if grade is not None]
        right = np.array([grades[index] for index in judged], dtype=bool)
        self._histograms.add_grades(rows["mean_alpha"].to_numpy()[judged], right)
        self._picker.add(table, tokens, rows, grades)
        self._num_seen += len(table)
        return rows

    def _grade(self, table: pa.Table, grader: Grader) -> dict[int, bool | None]:
        """Return right, wrong or None by row index, for every k-th row that has a final answer."""
        if "example" not in table.column_names:
            return {}
        indices = np.arange(-self._num_seen % self._grade_every, len(table), self._grade_every)
        taken = table.select(["completion", "example"]).take(pa.array(indices))
        pairs = {
            int(index): (row["completion"] or "", row["example"]["final_answer"])
            for index, row in zip(indices, taken.to_pylist(), strict=True)
            if row["example"] and row["example"].get("final_answer")
        }
        return dict(zip(pairs, grader.grade(list(pairs.values())), strict=True))


def measure_rows(
    table: pa.Table,
    tokens: Tokens,
    prompts: PromptMetrics,
    metadata: DatasetMetadata,
    phrases: Sequence[str] = PHRASES,
) -> pd.DataFrame:
    """Return one row of scalars for each row of the table: its identity, what suites judge, what is summed."""
    completion, finish_reason = _column(table, "completion"), _column(table, "finish_reason")
    largest = max_kl_error(tokens)
    # int64: other writers may use unsigned integers, which −1 does not fit.
    sample_idx, num_fallback, num_tokens = (
        pc.fill_null(pc.cast(table[name], pa.int64()), missing).to_numpy()
        for name, missing in (("sample_idx", -1), ("num_fallback", 0), ("num_tokens", 0))
    )
    rows: dict[str, object] = {
        "id": table["id"].to_pandas(),
        "sample_idx": sample_idx,
        "has_id": pc.fill_null(pc.greater(pc.utf8_length(table["id"]), 0), False).to_numpy() & (sample_idx >= 0),
        "num_tokens": num_tokens,
        "finish_reason": finish_reason.to_pandas(),  # "" for null: Great Expectations ignores missing values
        "max_kl_error": largest,
        "mean_alpha": tokens.mean_of(tokens.columns["alpha"]),
        "mean_js": tokens.mean_of(tokens.columns["js"]),
        "mean_overlap_mass": tokens.mean_of(tokens.columns["overlap_mass"]),
        "fallback_rate": num_fallback / np.maximum(num_tokens, 1),
        "figures_follow": metrics_match_tokens(table, tokens, largest),
        **judge_tokens(tokens),
        "empty": pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(completion)), 0).to_numpy(zero_copy_only=False),
        "loops": completions.loops(tokens.token_ids, tokens.starts),
        "gap_rate": gap_rate(tokens),
        "num_doubts": count_doubts(completion),
        "garbled": completions.is_garbled(_whole_characters(completion, finish_reason)),
    }
    if metadata.vocabulary:
        ending = metadata.vocabulary.eos_ids, metadata.vocabulary.stop_token_ids
        lists = tokens.token_ids, tokens.starts, finish_reason
        # Rows whose lists differ in length have no tokens here: lists_align reports them.
        rows["ends_right"] = completions.ends_right(*lists, *ending) | ~tokens.aligned
        decoded = completions.decodes(*lists, completion, *ending, metadata.vocabulary.decode)
        rows["decodes"] = decoded | ~tokens.aligned
    if "theta_prompt" in table.column_names:
        theta_prompt = _column(table, "theta_prompt")
        rows["strays"] = completions.strays(completion, theta_prompt)
        rows["privileged"] = privileged(completion, theta_prompt, phrases)
    if "example" in table.column_names:
        reference = pc.coalesce(_field(table, "solution"), _field(table, "answer"), pa.scalar("", pa.large_string()))
        copied = copied_words(completion, reference, pc.fill_null(_field(table, "question"), ""))
        rows |= {"copied_words": copied, "copies": copied >= COPIED_WORDS}
    if prompts.messages is not None:
        rows["messages_agree"] = prompts.messages
    for name in ("theta_not_empty", "teacher_not_empty", "theta_one_bos", "teacher_one_bos"):
        if (values := getattr(prompts, name)) is not None:
            rows[name] = values
    return pd.DataFrame(rows)


def _whole_characters(completion: pa.Array, finish_reason: pa.Array) -> pa.Array:
    """Return completions without U+FFFD at the end where they were cut at `max_tokens`, perhaps within a character."""
    return pc.if_else(pc.equal(finish_reason, "length"), pc.utf8_rtrim(completion, "\ufffd"), completion)


def _field(table: pa.Table, name: str) -> pa.Array:
    """Return a text of each row's example, null where it has none."""
    examples = table["example"].combine_chunks()
    if isinstance(examples, pa.ChunkedArray):
        examples = pa.concat_arrays(examples.chunks)
    if examples.type.get_field_index(name) < 0:
        return pa.nulls(len(table), pa.large_string())
    return pc.cast(pc.struct_field(examples, name), pa.large_string())


def _column(table: pa.Table, name: str) -> pa.Array:
    """Return a column of texts as 64-bit strings, null as the empty one."""
    column = pc.fill_null(pc.cast(table[name], pa.large_string()), "")
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
