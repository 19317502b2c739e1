"""Metrics of a dataset, summed batch by batch."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from tests.validations.measure.test_histograms import random_tokens
from validations.measure.metrics import MetricSums
from validations.measure.prompts import PromptMetrics

REASONS = ["eos", "stop", "length", "eos", "tired", ""]


def frame(reasons: list[str], **columns: list[bool]) -> pd.DataFrame:
    return pd.DataFrame({"finish_reason": reasons, "max_kl_error": [math.nan] * len(reasons), **columns})


def keys(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def test_rates_over_rows() -> None:
    sums = MetricSums()
    flags = {"empty": [True, *[False] * 5], "loops": [True, True, *[False] * 4], "garbled": [False] * 6}
    sums.add_rows(frame(REASONS, **flags), keys(1, 2, 3, 4, 5, 6), keys(1, 1, 2, 3, 4, 5))
    more = {"empty": [True] * 2, "loops": [False] * 2, "garbled": [False] * 2}
    sums.add_rows(frame(["eos", "length"], **more), keys(7, 1), keys(9, 1))
    metrics = sums.metrics(teacher_sees_reference=True)
    expected = {
        "num_rows": 8, "eos_rate": 4 / 8, "length_rate": 2 / 8, "empty_rate": 3 / 8, "loop_rate": 2 / 8,
        "garbled_rate": 0.0, "stray_rate": None, "num_duplicates": 1, "duplicate_rate": 2 / 8, "kl_error_max": None,
    }  # fmt: skip
    assert {name: metrics[name] for name in expected} == expected


def test_rates_and_means_over_tokens() -> None:
    tokens = [random_tokens(seed, (30, 50)) for seed in (0, 1)]
    for each in tokens:
        for name in ("entropy", "logprob_q", "logprob_teacher", "logprob_theta"):
            each.columns[name] = -each.columns["js"]
    sums = MetricSums()
    for each in tokens:
        sums.add_tokens(each)
    metrics = sums.metrics(teacher_sees_reference=False)
    mode = np.concatenate([each.mode for each in tokens])
    assert metrics["num_tokens"] == 160
    assert metrics["fallback_rate"] == pytest.approx((mode == 2).mean())
    assert metrics["mixed_rate"] == pytest.approx((mode == 0).mean())
    assert metrics["forced_rate"] == pytest.approx((mode == 1).mean())
    js = np.concatenate([each.columns["js"] for each in tokens]).astype(np.float64)
    assert metrics["mean_js"] == pytest.approx(js.mean(), rel=1e-12)
    assert metrics["mean_logprob_q"] == pytest.approx(-js.mean(), rel=1e-12)
    assert metrics["mean_num_tokens"] is None  # no rows were counted


def test_the_largest_kl_error_passes_over_rows_without_mixed_tokens() -> None:
    sums = MetricSums()
    for errors in ([math.nan, 2e-9], [math.nan, math.nan], [1e-9, math.nan]):
        sums.add_rows(frame(["eos"] * 2).assign(max_kl_error=errors), keys(1, 2), None)
    assert sums.metrics(teacher_sees_reference=True)["kl_error_max"] == 2e-9
    sums.add_rows(frame(["eos"]).assign(max_kl_error=[math.inf]), keys(3), None)
    assert sums.metrics(teacher_sees_reference=True)["kl_error_max"] is None  # JSON has no infinity


def test_prompts_and_references() -> None:
    def prompts(question: list[int], referenced: list[int], carried: list[int], leaked: list[int]) -> PromptMetrics:
        bools = [np.array(values, dtype=bool) for values in (question, referenced, carried)]
        frames = np.arange(len(question)) + 10
        return PromptMetrics(
            question=bools[0], referenced=bools[1], carried=bools[2], frames=frames, leaked=np.array(leaked)
        )

    sums = MetricSums()
    sums.add_prompts(prompts([1, 1, 0], [1, 1, 0], [1, 0, 1], [5, 0, 0]))
    sums.add_prompts(prompts([1], [1], [1], [0]))
    sums.add_prompts(PromptMetrics())
    metrics = sums.metrics(teacher_sees_reference=True)
    assert metrics["question_rate"] == 3 / 4
    assert metrics["reference_rate"] == pytest.approx(2 / 3)
    assert metrics["leak_rate"] == 0.0  # frame 10 stands around a row of the second batch too, which does not hold it
    assert sums.metrics(teacher_sees_reference=False)["reference_rate"] is None
    alone = MetricSums()
    alone.add_prompts(prompts([1, 1, 0], [1, 1, 0], [1, 0, 1], [5, 0, 0]))
    assert alone.metrics(teacher_sees_reference=True)["leak_rate"] == 1 / 2
    without = MetricSums()
    without.add_prompts(prompts([1, 1], [0, 0], [0, 0], [0, 0]))
    metrics = without.metrics(teacher_sees_reference=True)
    assert (metrics["leak_rate"], metrics["reference_rate"], metrics["question_rate"]) == (None, None, 1.0)


def test_grades() -> None:
    sums = MetricSums()
    sums.add_grades([True, False, None])
    sums.add_grades([])
    sums.add_grades([True, True])
    metrics = sums.metrics(teacher_sees_reference=True)
    assert (metrics["num_graded"], metrics["num_ungraded"], metrics["correct_rate"]) == (4, 1, 3 / 4)


def test_nothing_counted() -> None:
    metrics = MetricSums().metrics(teacher_sees_reference=True)
    assert (metrics["num_rows"], metrics["num_tokens"], metrics["num_duplicates"]) == (0, 0, 0)
    assert {value for name, value in metrics.items() if name.endswith("_rate")} == {None}
    json.dumps(metrics, allow_nan=False)
