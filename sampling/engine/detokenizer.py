"""Incremental detokenization of a completion."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

UNKNOWN = "\ufffd"  # of bytes that are no UTF-8
CONTEXT = 8  # tokens that a new stream begins with: what precedes them changes no text behind them


class Detokenizer:
    """Turns token ids into text one at a time; a UTF-8 character appears with its last byte.

    In a tokenizer with byte fallback a byte can make those before it invalid, which changes text that was there
    already (`A` becomes U+FFFD). `DecodeStream` fails on that, or overlooks it; the text is then decoded anew.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._token_ids: list[int] = []
        self.text = ""  # without the bytes of an unfinished character

    def append(self, token_id: int) -> str:
        """Return the text that this token adds."""
        self._token_ids.append(token_id)
        try:
            piece: str = self._stream.step(self._tokenizer.backend_tokenizer, token_id) or ""
        except Exception:  # tokenizers raises no class of its own: "Invalid prefix encountered …"
            piece = UNKNOWN
        if UNKNOWN not in piece:
            self.text += piece
            return piece
        before, self.text = self.text, decode(self._tokenizer, self._token_ids)
        self._stream = DecodeStream(ids=self._token_ids[-CONTEXT:], skip_special_tokens=True)
        return self.text[len(before) :]


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Return the text of a completion without special tokens."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
