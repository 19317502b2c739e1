"""What a dataset's maker knows of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The two models' tokenizers, as far as completions and prompts are judged by them."""

    decode: Callable[[list[list[int]]], list[str]]  # completions to texts, special tokens left out
    pieces: Callable[[Sequence[int]], list[str]]  # one completion to the text that each token adds
    eos_ids: frozenset[int]
    stop_token_ids: frozenset[int]
    theta_bos: str | None
    teacher_bos: str | None


@dataclass(frozen=True, slots=True)
class Turn:
    """What a chat template writes around a user's turn."""

    before: str
    after: str


@dataclass(frozen=True, slots=True)
class DatasetMetadata:
    """What is not known is None, and what needs it is not judged; `unknown` says why."""

    kl_symmetric: bool = True  # α solves KL symmetry, so its error is judged
    teacher_sees_reference: bool = False  # the teacher's template names it
    theta_turn: Turn | None = None  # None: no chat template
    teacher_turn: Turn | None = None
    vocabulary: Vocabulary | None = None
    unknown: str = "no tokenizer at hand"
