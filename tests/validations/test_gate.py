"""The gate: one table that passes, then tables that each break one expectation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sampling.record import RECORD_SCHEMA, to_record_table
from sampling.results import FALLBACK, FORCED, MIXED, DualOutput, TokenDiagnostics
from validations import figures as figures_module
from validations.gate import Limits, judge

LIMITS = Limits(kl_error_max=1e-6, fallback_rate_max=0.5, eos_rate_min=0.5, kl_symmetric=True)
MODE = np.array([FORCED, MIXED, MIXED, FALLBACK], dtype=np.uint8)


def output(row: int, sample_idx: int = 0, **changes: Any) -> DualOutput:
    """Four tokens of 0.5 in every figure, but for a KL error of 1e-7 and logprobs of −0.5."""
    half = np.full(4, 0.5, dtype=np.float32)
    ints = np.full(4, 5, dtype=np.int32)
    values: dict[str, Any] = {
        "id": f"{row:032x}",
        "sample_idx": sample_idx,
        "text": "four",
        "token_ids": (1, 2, 3, 4),
        "finish_reason": "eos",
        "num_theta_prompt_tokens": 3,
        "num_teacher_prompt_tokens": 5,
        "diagnostics": TokenDiagnostics(
            alpha=half, kl_theta=half, kl_teacher=half, kl_error=np.full(4, 1e-7, dtype=np.float32), js=half,
            overlap_mass=half, overlap_count=ints, support_size=ints, entropy=half, ess_ratio=half,
            logprob_q=-half, logprob_theta=-half, logprob_teacher=-half, mode=MODE,
        ),
    }  # fmt: skip
    return DualOutput(**(values | changes))


def good_table(num_rows: int = 6) -> pa.Table:
    return to_record_table([output(row) for row in range(num_rows)])


def with_value(table: pa.Table, column: str, row: int, value: Any) -> pa.Table:
    """The table with one value replaced."""
    values = table[column].to_pylist()
    values[row] = value
    index = table.schema.get_field_index(column)
    kind = table.schema.field(column).type
    return table.set_column(index, pa.field(column, kind), pa.array(values, kind))


def staged(folder: Path, *tables: pa.Table) -> list[Path]:
    paths = [folder / f"train-{i:05d}.parquet" for i in range(len(tables))]
    for path, table in zip(paths, tables, strict=True):
        pq.write_table(table, path)
    return paths


def test_a_good_table_passes_with_its_figures(tmp_path: Path) -> None:
    table = with_value(good_table(), "finish_reason", 5, "length")
    verdict = judge(staged(tmp_path, table), LIMITS)
    assert verdict.passed
    assert verdict.refusals == ()
    assert verdict.figures == pytest.approx(
        {
            "num_rows": 6,
            "num_tokens": 24,
            "num_duplicates": 0,
            "mean_num_tokens": 4,
            "eos_rate": 5 / 6,
            "length_rate": 1 / 6,
            "mixed_rate": 1 / 2,
            "forced_rate": 1 / 4,
            "fallback_rate": 1 / 4,
            "kl_error_max": np.float32(1e-7),
            "mean_alpha": 0.5,
            "mean_js": 0.5,
            "mean_overlap_mass": 0.5,
            "mean_entropy": 0.5,
            "mean_logprob_q": -0.5,
            "mean_logprob_teacher": -0.5,
            "mean_logprob_theta": -0.5,
        }
    )
    assert len(verdict.report["results"]) == 10
    assert all(result["success"] for result in verdict.report["results"])
    json.dumps([verdict.figures, verdict.report], allow_nan=False)


@pytest.mark.parametrize(
    ("column", "value", "refusal"),
    [
        (
            "max_kl_error",
            3e-5,
            "expect_column_values_to_be_between(max_kl_error): limit ≤ 1e-06, value 3e-05 in 1 of 6",
        ),
        ("id", None, "expect_column_values_to_not_be_null(id): limit an id, value None in 1 of 6 rows"),
        (
            "id",
            "",
            "expect_column_value_lengths_to_be_between(id): limit ≥ 1 character, value '' in 1 of 6 rows",
        ),
        (
            "num_tokens",
            0,
            "expect_column_values_to_be_between(num_tokens): limit ≥ 1, value 0 in 1 of 6 rows",
        ),
        (
            "finish_reason",
            "tired",
            "expect_column_values_to_be_in_set(finish_reason): limit eos or stop or length, value",
        ),
        (
            "mean_alpha",
            float("nan"),
            "expect_column_values_to_be_in_set(is_finite): limit every figure present and",
        ),
        (
            "mean_js",
            float("inf"),
            "expect_column_values_to_be_in_set(is_finite): limit every figure present and",
        ),
        (
            "mean_ess_ratio",
            float("nan"),
            "expect_column_values_to_be_in_set(is_finite): limit every figure present",
        ),
        (
            "mean_entropy",
            None,
            "expect_column_values_to_be_in_set(is_finite): limit every figure present and finite",
        ),
        (
            "max_kl_error",
            None,
            "expect_column_values_to_be_in_set(is_finite): limit every figure present and finite",
        ),
        ("num_fallback", 30, "expect_column_values_to_be_between(fallback_rate): limit ≤ 0.5, value 1.45833"),
        ("id", f"{1:032x}", "expect_column_values_to_be_between(num_duplicates): limit ≤ 0, value 1"),
    ],
)
def test_one_bad_value_breaks_one_expectation(tmp_path: Path, column: str, value: Any, refusal: str) -> None:
    verdict = judge(staged(tmp_path, with_value(good_table(), column, 0, value)), LIMITS)
    assert not verdict.passed
    (found,) = verdict.refusals
    assert found.startswith(refusal)
    assert verdict.report["success"] is False
    json.dumps([verdict.figures, verdict.report], allow_nan=False)


def test_too_few_ended_rows_are_refused(tmp_path: Path) -> None:
    outputs = [output(row, finish_reason="length" if row < 4 else "stop") for row in range(6)]
    (refusal,) = judge(staged(tmp_path, to_record_table(outputs)), LIMITS).refusals
    assert refusal == "expect_column_values_to_be_between(eos_rate): limit ≥ 0.5, value 0.333333"


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    verdict = judge(staged(tmp_path, RECORD_SCHEMA.empty_table()), LIMITS)
    assert verdict.refusals == ("expect_column_values_to_be_between(num_rows): limit ≥ 1, value 0",)
    json.dumps(verdict.figures, allow_nan=False)


def test_the_kl_error_counts_under_kl_symmetry_alone(tmp_path: Path) -> None:
    paths = staged(tmp_path, with_value(good_table(), "max_kl_error", 0, 0.3))
    verdict = judge(paths, Limits(**(vars(LIMITS) | {"kl_symmetric": False})))
    assert verdict.passed
    assert verdict.figures["kl_error_max"] == pytest.approx(0.3)


def test_rows_without_a_mixed_token_have_no_kl_error(tmp_path: Path) -> None:
    table = good_table(2)
    for row in range(2):
        for column, value in {"max_kl_error": None, "mean_kl_error": None, "num_mixed": 0}.items():
            table = with_value(table, column, row, value)
    verdict = judge(staged(tmp_path, table), LIMITS)
    assert verdict.passed
    assert verdict.figures["kl_error_max"] is None


def test_a_token_that_theta_cannot_say_is_no_defect(tmp_path: Path) -> None:
    """A forced token may be impossible under theta: log π_θ = −inf is then the truth."""
    table = with_value(good_table(), "mean_logprob_theta", 0, -np.inf)
    verdict = judge(staged(tmp_path, with_value(table, "mean_kl_theta", 0, np.inf)), LIMITS)
    assert verdict.passed
    assert verdict.figures["mean_logprob_theta"] is None


def test_batches_across_files_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven files in batches of two: what fails far apart is one line, duplicates are found."""
    monkeypatch.setattr(figures_module.read_batches, "__defaults__", (10,))
    tables = [to_record_table([output(6 * i + row, row % 2) for row in range(6)]) for i in range(7)]
    tables[0] = with_value(tables[0], "max_kl_error", 2, 2e-6)
    tables[6] = with_value(tables[6], "max_kl_error", 3, 9e-6)
    tables[6] = with_value(tables[6], "id", 4, f"{2:032x}")
    verdict = judge(staged(tmp_path, *tables), LIMITS)
    assert verdict.refusals == (
        "expect_column_values_to_be_between(max_kl_error): limit ≤ 1e-06, value 9e-06 in 2 of 42 rows",
        "expect_column_values_to_be_between(num_duplicates): limit ≤ 0, value 1",
    )
    assert verdict.figures["num_tokens"] == 42 * 4


def test_two_samples_of_one_row_are_no_duplicates(tmp_path: Path) -> None:
    table = to_record_table([output(0, 0), output(0, 1)])
    assert judge(staged(tmp_path, table), LIMITS).passed


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    judge(staged(tmp_path, good_table()), LIMITS)
    assert capfd.readouterr() == ("", "")
