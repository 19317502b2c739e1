"""A loader of tokenizers that checks that two models share one vocabulary."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sampling.config import ModelConfig
from sampling.errors import ConfigurationError, ModelError, VocabularyMismatchError
from sampling.models.folder import load_config, model_folder
from sampling.processes.errors import first_line
from sampling.prompts.encoding import is_panic

MAX_GROWTH = 64  # of a text by its normaliser: Llama's is 1, a Unicode character's at most 18
MAX_LISTED = 3  # differing ids that an error message lists


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, for a DummyModel one of numbers. Raises ModelError when it cannot be read."""
    if not model.has_weights:
        vocabulary = {str(token_id): token_id for token_id in range(load_config(model).vocab_size)}
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="0")))
    folder = model_folder(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    except BaseException as error:  # OSError, ValueError, KeyError, a panic in Rust, … for the same cause
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ModelError(f"{model.model} holds no tokenizer that can be read: {first_line(error)}") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # transformers' fallback without files
        raise ModelError(f"{model.model} holds no tokenizer that knows a word; fetch its tokenizer.json")
    if tokenizer.is_fast and (normalizer := tokenizer.backend_tokenizer.normalizer) is not None:
        growth = _growth(json.loads(normalizer.__getstate__()))
        if growth > MAX_GROWTH:
            raise ModelError(
                f"{model.model} has a tokenizer.json whose normaliser makes a text up to {growth:.0f} times as long; "
                f"{MAX_GROWTH} times is the most"
            )
    return tokenizer


def _growth(normalizer: dict[str, Any]) -> float:
    """Return how many times as long a normaliser's replacements make a text at most."""
    if "normalizers" in normalizer:
        return math.prod(map(_growth, normalizer["normalizers"]))
    if "pattern" not in normalizer:
        return max(1, len(normalizer.get("prepend", "")))
    return max(1.0, len(normalizer["content"]) / max(1, len(normalizer["pattern"].get("String", ""))))


def check_stop_ids(stop_token_ids: Sequence[int], num_ids: int) -> None:
    """Raise ConfigurationError for ids outside the shared vocabulary, which no row can draw."""
    if strange := [token_id for token_id in stop_token_ids if not 0 <= token_id < num_ids]:
        raise ConfigurationError(f"stop_token_ids {strange} are no ids of this vocabulary (0 to {num_ids - 1})")


def check_vocabularies(theta: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> int:
    """Return the number of ids, from 0 on, that both tokenizers have.

    Ids past the shorter vocabulary are never drawn: one model lacks them. Raises VocabularyMismatchError when an id
    has two different tokens, or is missing from one vocabulary.
    """
    theta_tokens = {token_id: token for token, token_id in theta.get_vocab().items()}
    teacher_tokens = {token_id: token for token, token_id in teacher.get_vocab().items()}
    num_ids: int = min(max(theta_tokens), max(teacher_tokens)) + 1
    differing = [token_id for token_id in range(num_ids) if theta_tokens.get(token_id) != teacher_tokens.get(token_id)]
    if differing:
        named = "; ".join(
            f"id {token_id} is {theta_tokens.get(token_id)!r} in theta, {teacher_tokens.get(token_id)!r} in the teacher"
            for token_id in differing[:MAX_LISTED]
        )
        raise VocabularyMismatchError(
            f"theta and teacher share no vocabulary: {len(differing)} of {num_ids} ids differ ({named});"
            " choose two models of one tokenizer"
        )
    return num_ids
