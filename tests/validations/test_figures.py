"""Figures of a dataset, added up batch by batch."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from tests.validations.test_sketch import random_tokens
from validations.figures import FigureSums
from validations.prompts import PromptFigures

REASONS = ["eos", "stop", "length", "eos", "tired", ""]


def frame(reasons: list[str], **columns: list[bool]) -> pd.DataFrame:
    return pd.DataFrame({"finish_reason": reasons, "max_kl_error": [math.nan] * len(reasons), **columns})


def keys(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def test_rates_over_rows() -> None:
    sums = FigureSums()
    flags = {"empty": [True, *[False] * 5], "loops": [True, True, *[False] * 4], "garbled": [False] * 6}
    sums.add_rows(frame(REASONS, **flags), keys(1, 2, 3, 4, 5, 6), keys(1, 1, 2, 3, 4, 5))
    more = {"empty": [True] * 2, "loops": [False] * 2, "garbled": [False] * 2}
    sums.add_rows(frame(["eos", "length"], **more), keys(7, 1), keys(9, 1))
    figures = sums.figures(teacher_sees_reference=True)
    wanted = {
        "num_rows": 8, "eos_rate": 4 / 8, "length_rate": 2 / 8, "empty_rate": 3 / 8, "loop_rate": 2 / 8,
        "garbled_rate": 0.0, "stray_rate": None, "num_duplicates": 1, "duplicate_rate": 2 / 8, "kl_error_max": None,
    }  # fmt: skip
    assert {name: figures[name] for name in wanted} == wanted


def test_rates_and_means_over_tokens() -> None:
    tokens = [random_tokens(seed, (30, 50)) for seed in (0, 1)]
    for held in tokens:
        for name in ("entropy", "logprob_q", "logprob_teacher", "logprob_theta"):
            held.columns[name] = -held.columns["js"]
    sums = FigureSums()
    for held in tokens:
        sums.add_tokens(held)
    figures = sums.figures(teacher_sees_reference=False)
    mode = np.concatenate([held.mode for held in tokens])
    assert figures["num_tokens"] == 160
    assert figures["fallback_rate"] == pytest.approx((mode == 2).mean())
    assert figures["mixed_rate"] == pytest.approx((mode == 0).mean())
    assert figures["forced_rate"] == pytest.approx((mode == 1).mean())
    js = np.concatenate([held.columns["js"] for held in tokens]).astype(np.float64)
    assert figures["mean_js"] == pytest.approx(js.mean(), rel=1e-12)
    assert figures["mean_logprob_q"] == pytest.approx(-js.mean(), rel=1e-12)
    assert figures["mean_num_tokens"] is None  # no rows were counted


def test_the_largest_kl_error_passes_over_rows_without_mixed_tokens() -> None:
    sums = FigureSums()
    for errors in ([math.nan, 2e-9], [math.nan, math.nan], [1e-9, math.nan]):
        sums.add_rows(frame(["eos"] * 2).assign(max_kl_error=errors), keys(1, 2), None)
    assert sums.figures(teacher_sees_reference=True)["kl_error_max"] == 2e-9
    sums.add_rows(frame(["eos"]).assign(max_kl_error=[math.inf]), keys(3), None)
    assert sums.figures(teacher_sees_reference=True)["kl_error_max"] is None  # JSON has no word for it


def test_prompts_and_references() -> None:
    def prompts(question: list[int], referenced: list[int], shown: list[int], leaked: list[int]) -> PromptFigures:
        bools = [np.array(values, dtype=bool) for values in (question, referenced, shown)]
        frames = np.arange(len(question)) + 10
        return PromptFigures(
            question=bools[0], referenced=bools[1], shown=bools[2], frames=frames, leaked=np.array(leaked)
        )

    sums = FigureSums()
    sums.add_prompts(prompts([1, 1, 0], [1, 1, 0], [1, 0, 1], [5, 0, 0]))
    sums.add_prompts(prompts([1], [1], [1], [0]))
    sums.add_prompts(PromptFigures())
    figures = sums.figures(teacher_sees_reference=True)
    assert figures["question_rate"] == 3 / 4
    assert figures["reference_rate"] == pytest.approx(2 / 3)
    assert figures["leak_rate"] == 0.0  # frame 10 stands around a row of the second batch too, which does not hold it
    assert sums.figures(teacher_sees_reference=False)["reference_rate"] is None
    alone = FigureSums()
    alone.add_prompts(prompts([1, 1, 0], [1, 1, 0], [1, 0, 1], [5, 0, 0]))
    assert alone.figures(teacher_sees_reference=True)["leak_rate"] == 1 / 2
    without = FigureSums()
    without.add_prompts(prompts([1, 1], [0, 0], [0, 0], [0, 0]))
    figures = without.figures(teacher_sees_reference=True)
    assert (figures["leak_rate"], figures["reference_rate"], figures["question_rate"]) == (None, None, 1.0)


def test_grades() -> None:
    sums = FigureSums()
    sums.add_grades([True, False, None])
    sums.add_grades([])
    sums.add_grades([True, True])
    figures = sums.figures(teacher_sees_reference=True)
    assert (figures["num_graded"], figures["num_ungraded"], figures["correct_rate"]) == (4, 1, 3 / 4)


def test_nothing_counted() -> None:
    figures = FigureSums().figures(teacher_sees_reference=True)
    assert (figures["num_rows"], figures["num_tokens"], figures["num_duplicates"]) == (0, 0, 0)
    assert {value for name, value in figures.items() if name.endswith("_rate")} == {None}
    json.dumps(figures, allow_nan=False)
