"""Rows that a report shows: spread evenly, the worst of all batches, cut."""

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


def specimens_of(
    rows: list[Row], batch: int, known: Vocabulary | None = None, grades: dict[int, bool | None] | None = None
) -> tuple[SampleRowPicker, pd.DataFrame]:
    """What is picked of rows that come `batch` at a time, with the frame of all."""
    specimens, frames = SampleRowPicker(len(rows), known), []
    for begin in range(0, len(rows), batch):
        table = to_table(rows[begin : begin + batch])
        tokens = flatten(table)
        frames.append(measure_rows(table, tokens, PromptMetrics(), DatasetMetadata()))
        here = {i - begin: grade for i, grade in (grades or {}).items() if begin <= i < begin + batch}
        specimens.add(table, tokens, frames[-1], here)
    return specimens, pd.concat(frames or [pd.DataFrame()], ignore_index=True)


def noisy_rows(num: int) -> list[Row]:
    """Rows of different lengths, with figures that differ."""
    rng = np.random.default_rng(5)
    rows = [made_row(i, text="x" * int(rng.integers(1, 60))) for i in range(num)]
    for row in rows:
        row["num_fallback"] = int(rng.integers(0, row["num_tokens"]))
    return rows


@pytest.mark.parametrize("batch", [1, 3, 10, 41])
def test_samples_spread_over_any_batches(batch: int) -> None:
    specimens, _ = specimens_of(made_rows(41), batch)
    spread = [row for row in specimens.samples() if row.why.startswith("row ")]
    assert [row.why for row in spread] == [f"row {i} of 41" for i in (1, 6, 12, 18, 23, 29, 35, 41)]
    assert [int(row.id, 16) for row in spread] == [0, 5, 11, 17, 22, 28, 34, 40]


@pytest.mark.parametrize("num", [1, 2, 7, 8, 9])
def test_a_small_dataset_is_shown_in_full(num: int) -> None:
    specimens, _ = specimens_of(made_rows(num), 2)
    shown = [row.id for row in specimens.samples()]
    assert len(shown) == len(set(shown))
    assert min(num, 8) <= len(shown) <= num
    assert specimens_of([], 2)[0].samples() == []


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_the_worst_are_those_of_the_whole_dataset(batch: int) -> None:
    specimens, frame = specimens_of(noisy_rows(50), batch)
    worst = specimens.worst()
    assert [row.figure for row in worst] == [figure for figure in WORST for _ in range(NUM_WORST)]
    for figure, kind in WORST.items():
        found = [row.value for row in worst if row.figure == figure]
        assert found == sorted(frame[figure].tolist(), reverse=kind == "largest")[:NUM_WORST]
        for row in worst:
            if row.figure == figure:
                assert frame[figure][int(row.id, 16)] == row.value
    largest = max(range(50), key=lambda i: frame["max_kl_error"][i])
    in_full = {row.why: int(row.id, 16) for row in specimens.samples() if not row.why.startswith("row ")}
    assert in_full.get("largest KL error", largest) == largest
    shown = {int(row.id, 16) for row in specimens.samples()}
    assert {largest, int(frame["fallback_rate"].idxmax())} <= shown


def test_what_no_row_has_is_no_rows_worst() -> None:
    rows = made_rows(3)
    for row in rows:
        row["mode"] = ["fallback"] * row["num_tokens"]
    specimens, _ = specimens_of(rows, 2)
    metrics = {row.figure for row in specimens.worst()}
    assert "max_kl_error" not in metrics
    assert all(np.isfinite(row.value) for row in specimens.worst())


def test_texts_are_cut() -> None:
    long = made_row(1, text="y" * (MAX_PROMPT_CHARS + 7))
    long["theta_prompt"] = "p" * (MAX_PROMPT_CHARS + 1)
    long["teacher_prompt"] = "p" * MAX_PROMPT_CHARS
    long["example"]["final_answer"] = None
    long["example"]["answer"] = "z" * (MAX_PROMPT_CHARS + 2)
    specimens, _ = specimens_of([long], 1)
    (row,) = specimens.samples()
    assert row.completion == "y" * MAX_PROMPT_CHARS + "… (7 more characters)"
    assert row.theta_prompt == "p" * MAX_PROMPT_CHARS + "… (1 more characters)"
    assert row.teacher_prompt == "p" * MAX_PROMPT_CHARS
    assert row.reference is not None
    assert row.reference.endswith("z… (2 more characters)")
    assert row.num_left_out == MAX_PROMPT_CHARS + 8 - MAX_TOKENS
    assert {len(getattr(row, name)) for name in ("pieces", "mode", "alpha", "kl_error", "logprob_q")} == {MAX_TOKENS}
    assert len(specimens.worst()[0].excerpt) < MAX_EXCERPT_CHARS + 40


def test_pieces_are_text_where_the_tokenizer_is_known() -> None:
    row = made_row(0, text="π is\n<script>")
    (known,), (unknown,) = (specimens_of([row], 1, words)[0].samples() for words in (vocabulary(), None))
    assert "".join(known.pieces).startswith("π is\n<script>")
    assert unknown.pieces == [f"⟨{token}⟩" for token in row["token_ids"]]
    assert len(known.pieces) == len(unknown.pieces) == row["num_tokens"]


def test_grades_find_their_rows() -> None:
    specimens, _ = specimens_of(made_rows(8), 3, grades={0: True, 3: False, 7: None})
    assert [row.is_correct for row in specimens.samples()][:8] == [True, None, None, False, None, None, None, None]


def test_nulls_and_torn_rows_are_shown_too() -> None:
    rows = made_rows(4)
    rows[0] |= {"id": None, "sample_idx": None, "completion": None, "finish_reason": None, "example": None}
    rows[1] |= {"theta_prompt": None, "num_tokens": None, "num_fallback": None}
    rows[2]["alpha"] = None
    rows[3]["mode"] = ["guessed"] * rows[3]["num_tokens"]
    specimens, _ = specimens_of(rows, 2, vocabulary())
    first, second, third, fourth = specimens.samples()[:4]
    assert (first.id, first.completion, first.finish_reason, first.reference) == ("", "", "", None)
    assert (second.theta_prompt, second.pieces, third.pieces) == (None, [], [])
    assert set(fourth.mode) == {"unknown"}
    json.dumps([asdict(row) for row in specimens.samples()])
