"""Rows picked for a report: spread evenly, the worst of all batches, cut."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.validations.tables import made_row, made_rows, to_table, vocabulary
from validations.measure.metadata import DatasetMetadata, Vocabulary
from validations.measure.prompts import PromptMetrics
from validations.measure.sample_rows import (
    MAX_EXCERPT_CHARS,
    MAX_PROMPT_CHARS,
    MAX_TOKENS,
    NUM_WORST,
    WORST,
    SampleRowPicker,
)
from validations.measure.scan import measure_rows
from validations.measure.tokens import flatten

Row = dict[str, Any]


def picked(
    rows: list[Row], batch: int, known: Vocabulary | None = None, grades: dict[int, bool | None] | None = None
) -> tuple[SampleRowPicker, pd.DataFrame]:
    """Return the picker of rows added `batch` at a time, with the frame of all."""
    picker, frames = SampleRowPicker(len(rows), known), []
    for begin in range(0, len(rows), batch):
        table = to_table(rows[begin : begin + batch])
        tokens = flatten(table)
        frames.append(measure_rows(table, tokens, PromptMetrics(), DatasetMetadata()))
        here = {i - begin: grade for i, grade in (grades or {}).items() if begin <= i < begin + batch}
        picker.add(table, tokens, frames[-1], here)
    return picker, pd.concat(frames or [pd.DataFrame()], ignore_index=True)


def noisy_rows(num: int) -> list[Row]:
    """Return rows of different lengths and metrics."""
    rng = np.random.default_rng(5)
    rows = [made_row(i, text="x" * int(rng.integers(1, 60))) for i in range(num)]
    for row in rows:
        row["num_fallback"] = int(rng.integers(0, row["num_tokens"]))
    return rows


@pytest.mark.parametrize("batch", [1, 3, 10, 41])
def test_samples_spread_over_any_batches(batch: int) -> None:
    picker, _ = picked(made_rows(41), batch)
    spread = [row for row in picker.samples() if row.why.startswith("row ")]
    assert [row.why for row in spread] == [f"row {i} of 41" for i in (1, 6, 12, 18, 23, 29, 35, 41)]
    assert [int(row.id, 16) for row in spread] == [0, 5, 11, 17, 22, 28, 34, 40]


@pytest.mark.parametrize("num", [1, 2, 7, 8, 9])
def test_a_small_dataset_is_shown_in_full(num: int) -> None:
    picker, _ = picked(made_rows(num), 2)
    ids = [row.id for row in picker.samples()]
    assert len(ids) == len(set(ids))
    assert min(num, 8) <= len(ids) <= num
    assert picked([], 2)[0].samples() == []


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_the_worst_are_those_of_the_whole_dataset(batch: int) -> None:
    picker, frame = picked(noisy_rows(50), batch)
    worst = picker.worst()
    metrics = [metric for metric in WORST if metric != "copied_words"]  # no row copies: none is the worst
    assert [row.metric for row in worst] == [metric for metric in metrics for _ in range(NUM_WORST)]
    for metric in metrics:
        kind = WORST[metric]
        found = [row.value for row in worst if row.metric == metric]
        assert found == sorted(frame[metric].tolist(), reverse=kind == "largest")[:NUM_WORST]
        for row in worst:
            if row.metric == metric:
                assert frame[metric][int(row.id, 16)] == row.value
    largest = max(range(50), key=lambda i: frame["max_kl_error"][i])
    in_full = {row.why: int(row.id, 16) for row in picker.samples() if not row.why.startswith("row ")}
    assert in_full.get("largest KL error", largest) == largest
    ids = {int(row.id, 16) for row in picker.samples()}
    assert {largest, int(frame["fallback_rate"].idxmax())} <= ids


def test_what_no_row_has_is_no_rows_worst() -> None:
    rows = made_rows(3)
    for row in rows:
        row["mode"] = ["fallback"] * row["num_tokens"]
    picker, _ = picked(rows, 2)
    metrics = {row.metric for row in picker.worst()}
    assert "max_kl_error" not in metrics
    assert all(np.isfinite(row.value) for row in picker.worst())


def test_texts_are_cut() -> None:
    long = made_row(1, text="y" * (MAX_PROMPT_CHARS + 7))
    long["theta_prompt"] = "p" * (MAX_PROMPT_CHARS + 1)
    long["teacher_prompt"] = "p" * MAX_PROMPT_CHARS
    long["example"]["final_answer"] = None
    long["example"]["answer"] = "z" * (MAX_PROMPT_CHARS + 2)
    picker, _ = picked([long], 1)
    (row,) = picker.samples()
    assert row.completion == "y" * MAX_PROMPT_CHARS + "… (7 more characters)"
    assert row.theta_prompt == "p" * MAX_PROMPT_CHARS + "… (1 more characters)"
    assert row.teacher_prompt == "p" * MAX_PROMPT_CHARS
    assert row.reference is not None
    assert row.reference.endswith("z… (2 more characters)")
    assert row.num_left_out == MAX_PROMPT_CHARS + 8 - MAX_TOKENS
    assert {len(getattr(row, name)) for name in ("pieces", "mode", "alpha", "kl_error", "logprob_q")} == {MAX_TOKENS}
    assert len(picker.worst()[0].excerpt) < MAX_EXCERPT_CHARS + 40


def test_pieces_are_text_where_the_tokenizer_is_known() -> None:
    row = made_row(0, text="π is\n<script>")
    (known,), (unknown,) = (picked([row], 1, words)[0].samples() for words in (vocabulary(), None))
    assert "".join(known.pieces).startswith("π is\n<script>")
    assert unknown.pieces == [f"⟨{token}⟩" for token in row["token_ids"]]
    assert len(known.pieces) == len(unknown.pieces) == row["num_tokens"]


def test_grades_find_their_rows() -> None:
    picker, _ = picked(made_rows(8), 3, grades={0: True, 3: False, 7: None})
    assert [row.is_correct for row in picker.samples()][:8] == [True, None, None, False, None, None, None, None]


def test_nulls_and_torn_rows_are_shown_too() -> None:
    rows = made_rows(4)
    rows[0] |= {"id": None, "sample_idx": None, "completion": None, "finish_reason": None, "example": None}
    rows[1] |= {"theta_prompt": None, "num_tokens": None, "num_fallback": None}
    rows[2]["alpha"] = None
    rows[3]["mode"] = ["guessed"] * rows[3]["num_tokens"]
    picker, _ = picked(rows, 2, vocabulary())
    first, second, third, fourth = picker.samples()[:4]
    assert (first.id, first.completion, first.finish_reason, first.reference) == ("", "", "", None)
    assert (second.theta_prompt, second.pieces, third.pieces) == (None, [], [])
    assert set(fourth.mode) == {"unknown"}
    json.dumps([asdict(row) for row in picker.samples()])
