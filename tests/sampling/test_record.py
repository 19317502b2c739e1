"""Tests of the Arrow record of a completion."""

from __future__ import annotations

import numpy as np
import pytest

from sampling import DualOutput, TokenDiagnostics
from sampling.record import RECORD_SCHEMA, TOKEN_COLUMNS, to_record_table
from sampling.results import FALLBACK, FORCED, MIXED

NUM_TOKENS = 4


def output(mode: list[int]) -> DualOutput:
    floats = {name: np.arange(NUM_TOKENS, dtype=np.float32) for name in TOKEN_COLUMNS if name != "mode"}
    floats["kl_error"] = np.array([np.inf, 1e-9, 3e-9, np.inf], dtype=np.float32)
    diagnostics = TokenDiagnostics(**floats, mode=np.array(mode, dtype=np.uint8))  # type: ignore[arg-type]
    return DualOutput("a", 2, "text", (1, 2, 3, 4), "eos", 7, 9, diagnostics)


def test_a_record_holds_every_column_of_the_schema() -> None:
    table = to_record_table([output([FORCED, MIXED, MIXED, FALLBACK])])
    assert table.schema == RECORD_SCHEMA
    row = table.to_pylist()[0]
    assert row["token_ids"] == [1, 2, 3, 4]
    assert row["mode"] == ["forced", "mixed", "mixed", "fallback"]
    assert (row["num_tokens"], row["num_mixed"], row["num_forced"], row["num_fallback"]) == (4, 2, 1, 1)
    assert row["mean_alpha"] == 1.5


def test_the_kl_error_of_a_row_is_that_of_its_mixed_tokens() -> None:
    row = to_record_table([output([FORCED, MIXED, MIXED, FALLBACK])]).to_pylist()[0]
    assert row["mean_kl_error"] == pytest.approx(2e-9)
    assert row["max_kl_error"] == pytest.approx(3e-9)
    none = to_record_table([output([FORCED] + [FALLBACK] * 3)]).to_pylist()[0]
    assert none["mean_kl_error"] is None
    assert none["max_kl_error"] is None


def test_no_completions_are_an_empty_table() -> None:
    assert to_record_table([]).num_rows == 0
