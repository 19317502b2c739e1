"""The encoder of rendered prompts into token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_prompts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text: with the tokenizer's prefix (BOS) once, without its suffix (EOS).

    The prefix is not added to a text that has it already: many chat templates write BOS themselves.
    """
    if not texts:
        return []
    prefix, bos = _added_prefix(tokenizer), tokenizer.bos_token_id
    encoded: list[list[int]]
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    prompts = []
    for ids in encoded:
        if ids[: len(prefix)] != prefix:
            ids = prefix + ids
        while bos is not None and ids[:2] == [bos, bos]:
            ids = ids[1:]
        prompts.append(ids)
    return prompts


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Return the token ids of one text, as `encode_prompts` does."""
    return tuple(encode_prompts(tokenizer, [text])[0])


def _added_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that the tokenizer puts before a text, found on the text 'a'."""
    bare, dressed = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    starts = (i for i in range(len(dressed)) if dressed[i : i + len(bare)] == bare)
    prefix: list[int] = dressed[: next(starts, 0)]
    return prefix
