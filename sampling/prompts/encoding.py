"""The encoder of rendered prompts into token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Any

from sampling.errors import PromptTooLongError, RowError
from sampling.processes.errors import first_line
from sampling.prompts.special_tokens import ForgedTokenError, Span, SpecialTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MAX_IDS = 1 << 20  # of a prompt: longer than a context is
PIECE_CHARS = 100_000  # of a long text, encoded to see whether it has more ids: each takes 600 bytes meanwhile
BATCH_CHARS = 1_000_000  # encoded at a time: tokenizers take 200 bytes of memory a token


class EncodingError(RowError):
    """A row whose prompt the tokenizer fails on."""

    reason = "encoding_failed"


class PromptEncoder:
    """An encoder of one model's prompts: with the tokenizer's prefix (BOS) once, without its suffix (EOS)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.special = SpecialTokens(tokenizer)
        self._tokenizer = tokenizer
        self._prefix = _added_prefix(tokenizer)
        self._normalises = not tokenizer.is_fast or tokenizer.backend_tokenizer.normalizer is not None

    def encode(self, texts: Sequence[str]) -> list[list[int] | RowError]:
        """Return the token ids of each text, or its error.

        That is a ForgedTokenError for a special token that the text does not spell, PromptTooLongError, EncodingError.
        """
        encoded = _encode(self._tokenizer, texts)
        return [
            found if isinstance(found, RowError) else self._checked(text, *found)
            for text, found in zip(texts, encoded, strict=True)
        ]

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
    """Return the token ids of one text, as a `PromptEncoder` does, whatever special tokens it holds. Raises RowError.

    The prefix is not added to a text that has it already: many chat templates write BOS themselves.
    """
    (found,) = _encode(tokenizer, [text])
    if isinstance(found, RowError):
        raise found
    return tuple(_dressed(tokenizer, _added_prefix(tokenizer), found[0]))


Encoded = tuple[list[int], list[Span] | None]


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Encoded | RowError]:
    """Return each text's ids, with the characters that each stands for where the tokenizer knows them, or its error."""
    encoded: list[Encoded | RowError] = []
    while batch := texts[len(encoded) : len(encoded) + _num_together(texts[len(encoded) :])]:
        try:
            encoded += _encode_bounded(tokenizer, batch)
        except RowError as error:
            encoded += [error] if len(batch) == 1 else [_encode(tokenizer, [text])[0] for text in batch]
    return encoded


def _encode_bounded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Encoded]:
    """Return what `_encode` does. Raises PromptTooLongError or EncodingError where one of the texts has an error."""
    try:
        for text in texts:
            pieces = range(0, len(text), PIECE_CHARS) if len(text) > PIECE_CHARS else ()
            num_ids = 0
            for start in pieces:
                num_ids += len(_call(tokenizer, [text[start : start + PIECE_CHARS]])["input_ids"][0])
                if num_ids > MAX_IDS:
                    raise PromptTooLongError(f"the prompt of {len(text):,} characters has more than {MAX_IDS:,} tokens")
        result = _call(tokenizer, texts, return_offsets_mapping=tokenizer.is_fast)
    except (MemoryError, RowError):
        raise
    except BaseException as error:  # a panic of the tokenizers package is no Exception
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise EncodingError(f"the tokenizer fails on the prompt: {type(error).__name__}: {first_line(error)}") from None
    return list(zip(result["input_ids"], result.get("offset_mapping") or [None] * len(texts), strict=True))


def is_panic(error: BaseException) -> bool:
    """Return whether an error is one of Rust's, as a regex that backtracks without end raises in tokenizers."""
    return type(error).__module__ == "pyo3_runtime"


def _call(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: bool) -> Mapping[str, Any]:
    found: Mapping[str, Any] = tokenizer(
        list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False, **options
    )
    return found


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
