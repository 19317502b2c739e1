"""Metadata of a dataset that its checks need: tokenizers, chat turns, mixture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
class DatasetMetadata:
    """Metadata of one dataset; checks that need a value that is None are not judged, for the reason `unknown`."""

    kl_symmetric: bool = True  # α solves KL symmetry, so its error is judged
    teacher_sees_reference: bool = False  # the teacher's template names the reference
    theta_turn: Turn | None = None  # None: no chat template
    teacher_turn: Turn | None = None
    vocabulary: Vocabulary | None = None
    unknown: str = "no tokenizer at hand"
