"""The text of a completion, token by token, for every kind of tokenizer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sampling.engine.detokenizer import UNKNOWN, Detokenizer, decode
from tests.tiny import byte_tokenizer

NUM_SEQUENCES, MOST_TOKENS = 10_000, 16  # of each of three tokenizers


def fast(model: models.Model, decoder: decoders.Decoder) -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def byte_fallback() -> PreTrainedTokenizerBase:
    """As SentencePiece's of Llama 2, Mistral and Gemma: words, and 256 bytes for the characters that it lacks."""
    words = ["▁", "a", "b", "▁a", "▁the", "the", "中", UNKNOWN, "▁▁", "é"]
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    model = models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return fast(model, decoders.Sequence(steps))


def word_piece() -> PreTrainedTokenizerBase:
    """As BERT's: pieces of words, joined with blanks that are taken back before a full stop or an apostrophe."""
    tokens = ["[UNK]", "do", "n", "'", "t", "##t", "##s", ".", ",", "the", "##re", "i", "m", "中"]
    model = models.WordPiece(vocab={token: i for i, token in enumerate(tokens)}, unk_token="[UNK]")
    return fast(model, decoders.WordPiece(cleanup=True))


KINDS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bytes": byte_tokenizer,
    "byte fallback": byte_fallback,
    "word pieces": word_piece,
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_sequence_of_tokens_has_the_decoders_text(kind: str) -> None:
    """Random ids, most of them single bytes where there are any, then a word, behind which nothing is held back."""
    tokenizer = KINDS[kind]()
    (word,) = tokenizer.convert_tokens_to_ids(["the" if kind != "bytes" else "a"])
    rng = np.random.default_rng(len(kind))
    for _ in range(NUM_SEQUENCES):
        token_ids = [*rng.integers(len(tokenizer), size=rng.integers(1, MOST_TOKENS)).tolist(), word]
        detokenizer = Detokenizer(tokenizer)
        for token_id in token_ids:
            detokenizer.append(token_id)
        assert detokenizer.text == decode(tokenizer, token_ids)


def test_a_character_appears_with_its_last_byte() -> None:
    tokenizer = byte_fallback()
    detokenizer = Detokenizer(tokenizer)
    tokens = ["▁a", "<0xE4>", "<0xB8>", "<0xAD>", "<0x0A>", "b"]
    pieces = [detokenizer.append(token_id) for token_id in tokenizer.convert_tokens_to_ids(tokens)]
    assert pieces == ["a", "", "", "中", "\n", "b"]
