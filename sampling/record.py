"""The Arrow schema of a sampled row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pyarrow as pa

from sampling.results import MIXED, MODES, DualOutput, TokenDiagnostics

TOKEN_COLUMNS: dict[str, pa.DataType] = {
    "alpha": pa.float32(),
    "kl_theta": pa.float32(),
    "kl_teacher": pa.float32(),
    "kl_error": pa.float32(),
    "js": pa.float32(),
    "overlap_mass": pa.float32(),
    "overlap_count": pa.int32(),
    "support_size": pa.int32(),
    "entropy": pa.float32(),
    "ess_ratio": pa.float32(),
    "log_z": pa.float32(),
    "logprob_q": pa.float32(),
    "logprob_theta": pa.float32(),
    "logprob_teacher": pa.float32(),
    "q_error": pa.float32(),
    "js_error": pa.float32(),
    "mode": pa.string(),
}
# Row figures: means over all tokens, but kl_error over mixed tokens alone (elsewhere α = 1 solves nothing).
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


def to_record(output: DualOutput) -> dict[str, object]:
    """One completion as a row of `RECORD_SCHEMA`."""
    diagnostics = output.diagnostics
    mixed = diagnostics.mode == MIXED
    counts = np.bincount(diagnostics.mode, minlength=len(MODES))
    tokens: dict[str, object] = {name: getattr(diagnostics, name) for name in TOKEN_COLUMNS}
    tokens["mode"] = diagnostics.modes
    means: dict[str, float | None] = {}
    for name, kind in TOKEN_COLUMNS.items():
        if kind != pa.float32():
            continue
        values = getattr(diagnostics, name)
        if name == "kl_error":
            values = values[mixed]
        means[f"mean_{name}"] = float(values.mean(dtype=np.float64)) if values.size else None
    return {
        "id": output.id,
        "sample_idx": output.sample_idx,
        "completion": output.text,
        "token_ids": np.asarray(output.token_ids, dtype=np.int32),
        "finish_reason": output.finish_reason,
        "num_tokens": len(output.token_ids),
        "num_theta_prompt_tokens": output.num_theta_prompt_tokens,
        "num_teacher_prompt_tokens": output.num_teacher_prompt_tokens,
        **tokens,
        **means,
        "max_kl_error": float(diagnostics.kl_error[mixed].max()) if mixed.any() else None,
        "num_mixed": int(counts[0]),
        "num_forced": int(counts[1]),
        "num_fallback": int(counts[2]),
    }


def to_record_table(outputs: Sequence[DualOutput]) -> pa.Table:
    """Completions as a table of `RECORD_SCHEMA`, in the order given."""
    records = [to_record(output) for output in outputs]
    columns = {field.name: [record[field.name] for record in records] for field in RECORD_SCHEMA}
    return pa.table(columns, schema=RECORD_SCHEMA)


assert set(TOKEN_COLUMNS) == {field.name for field in fields(TokenDiagnostics)}
