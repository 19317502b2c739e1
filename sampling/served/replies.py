"""A parser of vLLM's completion replies: ids and logprobs of one token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sampling.served.refusals import TryError, one_line

LOWEST = -9999.0  # how vLLM's completions API writes −inf, which JSON lacks
PREFIX = "token_id:"
ROUNDING = 1e-3  # float32 log-softmax over 152,000 ids sums to 1 within 1e-4


class ReplyError(TryError):
    """A reply that no vLLM sends; another try may do better."""


@dataclass(frozen=True, slots=True)
class NextToken:
    """One model's next-token logprobs: natural log, full distribution at temperature 1."""

    ids: np.ndarray  # [K] int64: the top-k ids, likeliest first, then the named ids that are not among them
    logprobs: np.ndarray  # [K] float64; −inf and NaN are passed on
    num_top: int  # how many of `ids` are the server's own top-k

    def extended(self, ids: np.ndarray, logprobs: np.ndarray) -> NextToken:
        """Return a copy with named ids [N] int64 and their logprobs [N] float64 appended."""
        return NextToken(np.concatenate([self.ids, ids]), np.concatenate([self.logprobs, logprobs]), self.num_top)


def read_logprobs(
    reply: Any, vocab_size: int | None = None, num_prompt_ids: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids [K] int64 and logprobs [K] float64 of a completion's first token; the drawn id comes first.

    Raises ReplyError for an id of at least `vocab_size`, for a prompt that the server did not count as `num_prompt_ids`
    tokens (None: any), for a malformed reply.
    """
    try:
        num_counted = (reply.get("usage") or {}).get("prompt_tokens", num_prompt_ids)
        (choice,) = reply["choices"]
        (top,) = choice["logprobs"]["top_logprobs"]
        ids = np.array([_token_id(key) for key in top], dtype=np.int64)
        # a bare NaN, and the null that some JSON writers turn it into, stay NaN: the mixture handles it
        logprobs = np.array([np.nan if value is None else value for value in top.values()], dtype=np.float64)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ReplyError(
            f"a reply without logprobs of one token ({type(error).__name__}: {one_line(str(error))})"
        ) from error
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
    """Return the `top_k` likeliest ids, likeliest first (NaN last). Raises ReplyError when there are fewer.

    A server returns one more where the id it drew ties with others and is not among its top-k.
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
    """Return the logprobs of `named_ids` [len(named_ids)] float64, in order. Raises ReplyError when one is missing."""
    found = dict(zip(ids.tolist(), logprobs.tolist(), strict=True))
    try:
        return np.array([found[token_id] for token_id in named_ids], dtype=np.float64)
    except KeyError as error:
        raise ReplyError(f"a reply without id {error}, which was named") from error
