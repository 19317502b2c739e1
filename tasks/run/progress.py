"""The progress of one attempt at a shard."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of one attempt at a shard so far."""

    num_done: int  # completions, failed ones included
    num_failed: int
    num_tokens: int = 0  # drawn by this attempt
    sampling_s: float = 0.0  # the time they took, loading not included
