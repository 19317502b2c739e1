"""The progress of one attempt at a shard."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt at a shard is."""

    num_done: int  # completions, failed ones among them
    num_failed: int
    num_tokens: int = 0  # drawn by this attempt
    sampling_s: float = 0.0  # what they took, loading not counted
