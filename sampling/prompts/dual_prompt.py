"""A row's two prompts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DualPrompt:
    """One row to sample: what the teacher sees, what theta sees, whose row it is.

    `id` keys the draws of the row: the same id, seed and position draw the same token in any batch.
    A prompt is rendered text, or the token ids themselves.
    """

    teacher: str | tuple[int, ...]
    theta: str | tuple[int, ...]
    id: str
