"""Finished rows as the engine hands them over, with figures that are made up."""

from __future__ import annotations

import numpy as np

from sampling.errors import PromptTooLongError
from sampling.results import DualOutput, FailedRow, TokenDiagnostics


def make_output(row: str, sample_idx: int = 0, num_tokens: int = 5) -> DualOutput:
    """A completion whose numbers follow from its name alone."""
    rng = np.random.default_rng([*row.encode(), sample_idx])
    floats = {
        name: rng.random(num_tokens, dtype=np.float32)
        for name in TokenDiagnostics.__slots__
        if name not in ("overlap_count", "support_size", "mode")
    }
    floats["kl_error"] *= np.float32(1e-7)  # as small as the gate wants it
    mode = np.zeros(num_tokens, np.uint8)
    mode[:1] = 1
    return DualOutput(
        id=row,
        sample_idx=sample_idx,
        text=f"completion of {row}",
        token_ids=tuple(rng.integers(0, 250, num_tokens).tolist()),
        finish_reason="eos",
        num_theta_prompt_tokens=3,
        num_teacher_prompt_tokens=4,
        diagnostics=TokenDiagnostics(
            **floats,
            overlap_count=rng.integers(0, 20, num_tokens, dtype=np.int32),
            support_size=rng.integers(1, 250, num_tokens, dtype=np.int32),
            mode=mode,
        ),
    )


def make_failure(row: str, sample_idx: int = 0) -> FailedRow:
    """A completion that could not be sampled."""
    return FailedRow(row, sample_idx, PromptTooLongError(f"row {row} has 99 tokens; 64 fit"))
