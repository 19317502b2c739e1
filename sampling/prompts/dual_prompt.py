"""The prompt pair of a row, as `DualSampler.generate` takes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DualPrompt:
    """A row to sample: the teacher's prompt, theta's prompt, the row's id.

    `id` keys the row's random numbers: the same id, seed and position draw the same token in any batch.
    A prompt is rendered text, or token ids.
    """

    teacher: str | tuple[int, ...]
    theta: str | tuple[int, ...]
    id: str
