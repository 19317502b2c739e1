"""Incremental detokenization of a completion."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase


class Detokenizer:
    """Turns token ids into text one at a time; a UTF-8 character appears with its last byte."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self.text = ""

    def append(self, token_id: int) -> str:
        """Return the text that this token adds."""
        piece: str = self._stream.step(self._backend, token_id) or ""
        self.text += piece
        return piece


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Return the text of a completion without special tokens."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
