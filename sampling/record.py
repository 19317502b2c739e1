"""The Arrow schema of a sampled row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sampling.results import MIXED, MODES, DualOutput, Floats, Ints, TokenDiagnostics

TOKEN_COLUMNS: dict[str, pa.DataType] = {
    name: {Floats: pa.float32(), Ints: pa.int32()}.get(hint, pa.string())
    for name, hint in get_type_hints(TokenDiagnostics).items()
}
# Of a row: means over all tokens, but kl_error over mixed tokens only (elsewhere α = 1 is not solved for).
ROW_COLUMNS: dict[str, pa.DataType] = {
    **{f"mean_{name}": pa.float32() for name, kind in TOKEN_COLUMNS.items() if kind == pa.float32()},
    "max_kl_error": pa.float32(),
    "num_mixed": pa.int32(),
    "num_forced": pa.int32(),
    "num_fallback": pa.int32(),
}
RECORD_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sample_idx", pa.int32(), nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("num_theta_prompt_tokens", pa.int32(), nullable=False),
        pa.field("num_teacher_prompt_tokens", pa.int32(), nullable=False),
        *(pa.field(name, pa.list_(kind), nullable=False) for name, kind in TOKEN_COLUMNS.items()),
        *(pa.field(name, kind) for name, kind in ROW_COLUMNS.items()),
    ]
)


def to_record_table(outputs: Sequence[DualOutput]) -> pa.Table:
    """Return completions as a table of `RECORD_SCHEMA`, in the order given.

    Columns are built over all completions at once: row by row takes four times as long, beside the sampling thread.
    """
    if not outputs:
        return RECORD_SCHEMA.empty_table()
    rows = _Rows(np.array([len(output.token_ids) for output in outputs]))
    mode = np.concatenate([output.diagnostics.mode for output in outputs])
    mixed = mode == MIXED
    columns: dict[str, Any] = {
        "id": [output.id for output in outputs],
        "sample_idx": [output.sample_idx for output in outputs],
        "completion": [output.text for output in outputs],
        "token_ids": rows.lists(np.concatenate([np.asarray(output.token_ids, np.int32) for output in outputs])),
        "finish_reason": [output.finish_reason for output in outputs],
        "num_tokens": rows.lengths,
        "num_theta_prompt_tokens": [output.num_theta_prompt_tokens for output in outputs],
        "num_teacher_prompt_tokens": [output.num_teacher_prompt_tokens for output in outputs],
    }
    for index, name in enumerate(MODES):
        columns[f"num_{name}"] = rows.reduced(np.add, (mode == index).astype(np.int32))
    for name, kind in TOKEN_COLUMNS.items():
        if name == "mode":
            columns[name] = rows.lists(pa.array(MODES).take(pa.array(mode)))
            continue
        values = np.concatenate([getattr(output.diagnostics, name) for output in outputs])
        columns[name] = rows.lists(values)
        if name == "kl_error":
            counts = columns["num_mixed"]
            columns["mean_kl_error"] = rows.means(np.where(mixed, values, 0.0), counts)
            highest = rows.reduced(np.maximum, np.where(mixed, values, -np.inf))
            columns["max_kl_error"] = pa.array(highest, pa.float32(), mask=counts == 0)
        elif kind == pa.float32():
            columns[f"mean_{name}"] = rows.means(values, rows.lengths)
    return pa.table({name: columns[name] for name in RECORD_SCHEMA.names}, schema=RECORD_SCHEMA)


class _Rows:
    """Rows of tokens stored one after the other in flat arrays."""

    def __init__(self, lengths: NDArray[np.int64]) -> None:
        self.lengths = lengths  # [N] tokens of each row
        self._ends = np.cumsum(lengths)

    def lists(self, values: NDArray[Any] | pa.Array) -> pa.ListArray:
        """Return flat values [sum of lengths] as one list a row."""
        return pa.ListArray.from_arrays(np.append(0, self._ends).astype(np.int32), values)

    def reduced(self, operation: np.ufunc, values: NDArray[Any]) -> NDArray[Any]:
        """Return one number a row; 0 for a row without tokens, where `reduceat` would return a neighbour's value."""
        reduced = np.zeros(len(self.lengths), values.dtype)
        filled = self.lengths > 0
        if filled.any():
            reduced[filled] = operation.reduceat(values, (self._ends - self.lengths)[filled])
        return reduced

    def means(self, values: NDArray[Any], counts: NDArray[Any]) -> pa.Array:
        """Return sums over counts [N], in float64; null where the count is 0."""
        sums = self.reduced(np.add, values.astype(np.float64))
        return pa.array(sums / np.maximum(counts, 1), pa.float32(), mask=counts == 0)
