"""What a server's reply says of the next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LOWEST = -9999.0  # vLLM's completions API writes -inf so, because JSON has none
PREFIX = "token_id:"
ROUNDING = 1e-3  # float32 log-softmax over 152,000 ids sums to 1 within 1e-4


class ReplyError(Exception):
    """A reply that no vLLM gives; a server that is asked again may do better."""


@dataclass(frozen=True, slots=True)
class NextToken:
    """What one model says of the next token: natural-log probabilities of its full distribution at temperature 1."""

    ids: np.ndarray  # [K] int64: the top-k ids, likeliest first, then the named ids that are not among them
    logprobs: np.ndarray  # [K] float64; −inf and NaN are passed on
    num_top: int  # how many of `ids` are the server's own top-k


def read_logprobs(
    reply: Any, vocab_size: int | None = None, num_prompt_ids: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and logprobs of the first token of a completion, in the server's order: the drawn id first.

    Every id must be below `vocab_size`, and the prompt that the server counted have `num_prompt_ids` (None: any).
    Returns [K] int64 and [K] float64. Raises ReplyError.
    """
    try:
        num_counted = (reply.get("usage") or {}).get("prompt_tokens", num_prompt_ids)
        (choice,) = reply["choices"]
        (top,) = choice["logprobs"]["top_logprobs"]
        ids = np.array([_token_id(key) for key in top], dtype=np.int64)
        # a bare NaN, and the null that some JSON writers make of it, stay NaN: whoever mixes decides
        logprobs = np.array([np.nan if value is None else value for value in top.values()], dtype=np.float64)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ReplyError(f"a reply without logprobs of one token ({type(error).__name__}: {error})") from error
    if num_prompt_ids not in (None, num_counted):
        raise ReplyError(f"a reply to a prompt of {num_counted} ids, where {num_prompt_ids} were sent")
    if not len(ids):
        raise ReplyError("a reply whose logprobs are empty")
    if (ids < 0).any() or (vocab_size is not None and (ids >= vocab_size).any()):
        raise ReplyError(f"a reply with id {ids.max()}, where the model has {vocab_size} ids")
    if (logprobs > ROUNDING).any() or np.exp(logprobs).sum() > 1 + ROUNDING:
        raise ReplyError(f"a reply whose logprobs are none: the largest is {np.nanmax(logprobs):.4g}")
    logprobs[logprobs <= LOWEST] = -np.inf
    return ids, logprobs


def _token_id(key: str) -> int:
    if not key.startswith(PREFIX):
        raise ValueError(f"{key[:40]!r} is no token id")
    return int(key[len(PREFIX) :])


def top_of(
    ids: np.ndarray,  # [K'] int64
    logprobs: np.ndarray,  # [K'] float64
    top_k: int,
) -> NextToken:
    """The `top_k` likeliest, likeliest first (NaN last). Raises ReplyError when there are fewer.

    A server gives one more where the id it drew ties with others and is not among its top-k.
    """
    if len(ids) < top_k:
        raise ReplyError(
            f"a reply with {len(ids)} ids, where {top_k} were asked for (if another run names ids to this server, set"
            " http.name_ids: false)"
        )
    order = np.argsort(-logprobs, kind="stable")[:top_k]
    if np.isneginf(logprobs[order[-1]]) and np.exp(logprobs).sum() < 1 - ROUNDING:
        raise ReplyError(f"a reply whose {top_k} likeliest ids hold one that is impossible, and not all of the mass")
    return NextToken(ids[order], logprobs[order], top_k)


def pick(
    ids: np.ndarray,  # [K'] int64
    logprobs: np.ndarray,  # [K'] float64
    named_ids: Sequence[int],
) -> np.ndarray:
    """The logprobs [len(named_ids)] float64 of `named_ids`, in their order. Raises ReplyError when one is missing."""
    found = dict(zip(ids.tolist(), logprobs.tolist(), strict=True))
    try:
        return np.array([found[token_id] for token_id in named_ids], dtype=np.float64)
    except KeyError as error:
        raise ReplyError(f"a reply without id {error}, which was named") from error
