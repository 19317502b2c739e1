"""The encoder of rendered prompts into token ids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING

from sampling.errors import RowError
from sampling.prompts.special_tokens import ForgedTokenError, Span, SpecialTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


BATCH_CHARS = 1_000_000  # encoded at a time: tokenizers take 200 bytes of memory a token


class PromptEncoder:
    """An encoder of one model's prompts: with the tokenizer's prefix (BOS) once, without its suffix (EOS)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.special = SpecialTokens(tokenizer)
        self._tokenizer = tokenizer
        self._prefix = _added_prefix(tokenizer)
        self._normalises = not tokenizer.is_fast or tokenizer.backend_tokenizer.normalizer is not None

    def encode(self, texts: Sequence[str]) -> list[list[int] | ForgedTokenError]:
        """Return the token ids of each text, or the error of one whose ids hold a special token it does not spell."""
        encoded = _encode(self._tokenizer, texts)
        return [self._checked(text, *ids_spans) for text, ids_spans in zip(texts, encoded, strict=True)]

    def refuse_forged(self, texts: Sequence[str]) -> None:
        """Raise ForgedTokenError for a text of a row that the tokenizer reads as a special token, on its own."""
        if self._normalises:
            for ids in self.encode(texts):
                if isinstance(ids, RowError):
                    raise ids

    def _checked(self, text: str, ids: list[int], spans: list[Span] | None) -> list[int] | ForgedTokenError:
        if (token := self.special.forged(text, ids, spans)) is not None:
            return ForgedTokenError(
                f"{self._tokenizer.name_or_path or 'the tokenizer'} reads other text of the row as its special token "
                f"{token!r}; remove what looks like it"
            )
        return _dressed(self._tokenizer, self._prefix, ids)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Return the token ids of one text, as a `PromptEncoder` does, whatever special tokens it holds.

    The prefix is not added to a text that has it already: many chat templates write BOS themselves.
    """
    return tuple(_dressed(tokenizer, _added_prefix(tokenizer), _encode(tokenizer, [text])[0][0]))


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[tuple[list[int], list[Span] | None]]:
    """Return each text's ids, with the characters that each stands for where the tokenizer knows them."""
    encoded: list[tuple[list[int], list[Span] | None]] = []
    while batch := texts[len(encoded) : len(encoded) + _num_together(texts[len(encoded) :])]:
        result = tokenizer(
            list(batch),
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=tokenizer.is_fast,
        )
        encoded += zip(result["input_ids"], result.get("offset_mapping") or [None] * len(batch), strict=True)
    return encoded


def _num_together(texts: Sequence[str]) -> int:
    """Return how many of the first texts are encoded at a time: at least one, which may be a long one."""
    totals = accumulate(len(text) for text in texts)
    return max(1, sum(1 for _ in takewhile(lambda total: total <= BATCH_CHARS, totals)))


def _dressed(tokenizer: PreTrainedTokenizerBase, prefix: list[int], ids: list[int]) -> list[int]:
    bos = tokenizer.bos_token_id
    if ids[: len(prefix)] != prefix:
        ids = prefix + ids
    while bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]
    return ids


def _added_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that the tokenizer puts before a text, found on the text 'a'."""
    bare, dressed = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    starts = (i for i in range(len(dressed)) if dressed[i : i + len(bare)] == bare)
    prefix: list[int] = dressed[: next(starts, 0)]
    return prefix
