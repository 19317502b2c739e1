"""Metadata of a dataset that its checks need: tokenizers, chat turns, mixture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The parts of the two models' tokenizers that checks use."""

    decode: Callable[[list[list[int]]], list[str]]  # completions to texts, special tokens left out
    pieces: Callable[[Sequence[int]], list[str]]  # one completion to the text that each token adds
    eos_ids: frozenset[int]
    stop_token_ids: frozenset[int]
    theta_bos: str | None
    teacher_bos: str | None


@dataclass(frozen=True, slots=True)
class Turn:
    """Texts that a chat template writes around a user's turn."""

    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Quarantine:
    """What a run left out of its dataset, with a reason: rows that could not be planned, completions that failed."""

    reasons: Mapping[str, int]
    num_planned: int  # rows
    num_samples: int  # completions of each

    def rate(self, num_rows: int) -> float:
        """Return the share of completions that are not there, given those that are; an unplanned row lacks all."""
        num_failed = max(0, self.num_planned * self.num_samples - num_rows)
        num_unplanned = max(0, sum(self.reasons.values()) - num_failed) * self.num_samples
        return (num_failed + num_unplanned) / max(1, self.num_planned * self.num_samples + num_unplanned)

    def counts(self) -> str:
        """Return the reasons with their counts."""
        return ", ".join(f"{reason[:40]} {num}" for reason, num in list(self.reasons.items())[:10])


@dataclass(frozen=True, slots=True)
class DatasetMetadata:
    """Metadata of one dataset; checks that need a value that is None are not judged, for the reason `unknown`."""

    kl_symmetric: bool = True  # α solves KL symmetry, so its error is judged
    teacher_sees_reference: bool = False  # the teacher's template names the reference
    theta_turn: Turn | None = None  # None: no chat template
    teacher_turn: Turn | None = None
    vocabulary: Vocabulary | None = None
    quarantine: Quarantine | None = None  # None: there is no manifest
    unknown: str = "no tokenizer at hand"
