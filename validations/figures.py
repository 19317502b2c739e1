"""The figures of a staged dataset, summed batch by batch over its scalar columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sampling.record import RECORD_SCHEMA, ROW_COLUMNS

Figures = dict[str, float | int | None]

# Great Expectations takes 0.4 GB at its peak for 250k rows, 1.4 s for their expectations.
BATCH_ROWS = 250_000
SCALAR_COLUMNS = ("id", "sample_idx", "finish_reason", "num_tokens", *ROW_COLUMNS)
ENDED = ("eos", "stop")
# A token drawn from the teacher (forced, fallback) may be impossible under theta: its log π_θ is −inf, its KL
# inf, and both are true. What the mixture itself decides is finite always.
FINITE_COLUMNS = (
    "mean_alpha",
    "mean_js",
    "mean_overlap_mass",
    "mean_entropy",
    "mean_logprob_q",
    "mean_logprob_teacher",
)
MIXED_COLUMNS = ("mean_kl_error", "max_kl_error")  # null where a row has no mixed token
MEANS = (*FINITE_COLUMNS, "mean_logprob_theta")


def read_batches(parquet_files: Sequence[Path], batch_rows: int = BATCH_ROWS) -> Iterator[pd.DataFrame]:
    """The scalar columns of the rows, at most about `batch_rows` at a time, files joined in order."""
    waiting: list[pa.RecordBatch] = []
    for path in parquet_files:
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(batch_rows, columns=list(SCALAR_COLUMNS)):
                waiting.append(batch)
                if sum(map(len, waiting)) >= batch_rows:
                    yield pa.Table.from_batches(waiting).to_pandas()
                    waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting).to_pandas()


def to_judged_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that the row suite judges: id, num_tokens, finish_reason, max_kl_error, is_finite."""
    floats = rows[[name for name, kind in ROW_COLUMNS.items() if kind == pa.float32()]].astype("float64")
    mixed = (rows["num_mixed"] > 0).to_numpy()
    is_finite = np.isfinite(floats[list(FINITE_COLUMNS)]).all(axis=1)
    is_finite &= np.isfinite(floats[list(MIXED_COLUMNS)]).all(axis=1) | ~mixed
    is_finite &= floats.drop(columns=list(MIXED_COLUMNS)).notna().all(axis=1)
    judged = rows[["id", "num_tokens", "finish_reason"]].copy()
    judged["max_kl_error"] = floats["max_kl_error"]
    judged["is_finite"] = is_finite
    return judged


class FigureSums:
    """Adds up batches of rows; 8 bytes a row stay in memory, to find the rows that are there twice."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._kl_error_max = -np.inf
        self._keys: list[np.ndarray] = []

    def add(self, rows: pd.DataFrame) -> None:
        """Adds a batch with the columns of `SCALAR_COLUMNS`."""
        num_tokens = rows["num_tokens"].to_numpy(dtype="float64")
        sums = {
            "num_rows": len(rows),
            "num_tokens": num_tokens.sum(),
            "num_ended": rows["finish_reason"].isin(ENDED).sum(),
            "num_length": (rows["finish_reason"] == "length").sum(),
            **{name: rows[name].sum() for name in ("num_mixed", "num_forced", "num_fallback")},
            **{name: np.dot(rows[name].to_numpy(dtype="float64"), num_tokens) for name in MEANS},
        }
        self._sums = {name: self._sums.get(name, 0.0) + float(value) for name, value in sums.items()}
        self._kl_error_max = float(np.fmax(self._kl_error_max, rows["max_kl_error"].astype("float64").max()))
        # 64 bits: two different rows of ten million share a key with a chance of 3 in a million.
        self._keys.append(pd.util.hash_pandas_object(rows[["id", "sample_idx"]], index=False).to_numpy())

    def figures(self) -> Figures:
        """Rates over tokens or rows, means over tokens; None where nothing was counted or a sum is inf."""
        sums = {"num_rows": 0.0, **self._sums}
        num_keys = sum(map(len, self._keys))
        num_unique = len(np.unique(np.concatenate(self._keys))) if self._keys else 0
        figures: Figures = {
            "num_rows": int(sums["num_rows"]),
            "num_tokens": int(sums.get("num_tokens", 0)),
            "num_duplicates": num_keys - num_unique,
            "mean_num_tokens": _ratio(sums, "num_tokens", "num_rows"),
            "eos_rate": _ratio(sums, "num_ended", "num_rows"),
            "length_rate": _ratio(sums, "num_length", "num_rows"),
            "mixed_rate": _ratio(sums, "num_mixed", "num_tokens"),
            "forced_rate": _ratio(sums, "num_forced", "num_tokens"),
            "fallback_rate": _ratio(sums, "num_fallback", "num_tokens"),
            "kl_error_max": self._kl_error_max if np.isfinite(self._kl_error_max) else None,
        }
        return figures | {name: _ratio(sums, name, "num_tokens") for name in MEANS}


def _ratio(sums: dict[str, float], numerator: str, denominator: str) -> float | None:
    """None for an empty denominator and for a sum that is not finite: JSON has no word for those."""
    if not sums.get(denominator):
        return None
    value = sums[numerator] / sums[denominator]
    return value if np.isfinite(value) else None


assert set(SCALAR_COLUMNS) <= set(RECORD_SCHEMA.names)
