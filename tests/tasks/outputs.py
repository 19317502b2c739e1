"""Results of the engine for tests, with made-up diagnostics that are consistent with each other."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from sampling.errors import PromptTooLongError
from sampling.results import FORCED, MIXED, DualOutput, FailedRow, FinishReason, TokenDiagnostics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EOS_ID = 256  # of tests.tiny.byte_tokenizer
LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz ,.", np.uint8)


def make_diagnostics(rng: np.random.Generator, mode: np.ndarray) -> TokenDiagnostics:
    """Return diagnostics of T tokens in the modes [T] that satisfy every statement of `TokenDiagnostics`."""
    num_tokens = len(mode)

    def uniform(most: float) -> np.ndarray:
        return rng.random(num_tokens) * most

    mixed = mode == MIXED
    alpha = np.where(mixed, uniform(1.0), 1.0)
    theta, teacher = -uniform(9.0), -uniform(5.0)
    together = (1 - alpha) * theta + alpha * teacher
    log_z = uniform(1.0) * together  # logprob_q is the rest of it; both are ≤ 0
    kl_teacher = uniform(2.0)
    kl_error = np.where(mixed, uniform(1e-7), uniform(2.0))
    support_size = rng.integers(1, 250, num_tokens)
    metrics = {
        "alpha": alpha,
        "kl_theta": kl_teacher + kl_error,
        "kl_teacher": kl_teacher,
        "kl_error": kl_error,
        "js": uniform(float(np.log(2))),
        "overlap_mass": uniform(1.0),
        "entropy": uniform(1.0) * np.log(support_size),
        "ess_ratio": uniform(2.0),
        "log_z": log_z,
        "logprob_q": together - log_z,
        "logprob_theta": theta,
        "logprob_teacher": teacher,
        "q_error": np.zeros(num_tokens),
        "js_error": np.zeros(num_tokens),
    }
    return TokenDiagnostics(
        **{name: values.astype(np.float32) for name, values in metrics.items()},
        overlap_count=rng.integers(0, 20, num_tokens, dtype=np.int32),
        support_size=support_size.astype(np.int32),
        mode=mode,
    )


def make_output(
    row: str, sample_idx: int = 0, num_tokens: int = 5, finish_reason: FinishReason = "eos", text: str | None = None
) -> DualOutput:
    """Return a completion determined by its row and sample index: an id for each byte of its text, then EOS.

    `text` replaces the `num_tokens` letters.
    """
    rng = np.random.default_rng([*row.encode(), sample_idx])
    ended = finish_reason == "eos" and num_tokens > 0
    if text is None:
        text = rng.choice(LETTERS, num_tokens - ended).tobytes().decode()
    token_ids = (*_byte_backend().encode(text, add_special_tokens=False).ids, *[EOS_ID] * ended)
    mode = np.full(len(token_ids), MIXED, np.uint8)
    mode[:1] = FORCED
    return DualOutput(
        id=row,
        sample_idx=sample_idx,
        text=text,
        token_ids=token_ids,
        finish_reason=finish_reason,
        num_theta_prompt_tokens=3,
        num_teacher_prompt_tokens=4,
        diagnostics=make_diagnostics(rng, mode),
    )


@cache
def byte_speller() -> PreTrainedTokenizerFast:
    """Return `tests.tiny.byte_tokenizer`: one token a byte, EOS_ID last."""
    from tests.tiny import byte_tokenizer

    return byte_tokenizer()


@cache
def _byte_backend() -> Tokenizer:
    """Return the encoder of `byte_speller` without transformers, whose import takes seconds in each process."""
    vocabulary = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.add_special_tokens(["<|endoftext|>"])
    return backend


def make_failure(row: str, sample_idx: int = 0) -> FailedRow:
    """Return a completion that could not be sampled."""
    return FailedRow(row, sample_idx, PromptTooLongError(f"row {row} has 99 tokens; 64 fit"))
