"""Measures of one or two distributions over a vocabulary.

Distributions are rows of log-probabilities, natural log, float64: a float32 sum over 152,000 terms alone
errs by 1.2e-6 nats, more than the 1e-6 that a mixed token is allowed in all. An id of probability zero
has −inf, and 0·log 0 counts as 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEG_INF = -math.inf
LEAST = -1e300  # times a probability of 0 it is 0, where −inf would be NaN


def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:  # [B, V] any float
    """Log-probabilities [B, V] float64 of logits at a temperature; 0 leaves the logits as they are."""
    return torch.log_softmax(logits.double() / (temperature or 1.0), dim=-1)


def renormalise(logprobs: Tensor, support: Tensor) -> Tensor:  # [B, V] float64, [B, V] bool
    """Log-probabilities [B, V] restricted to a support; all −inf where the support has no mass."""
    inside = logprobs.masked_fill(~support, NEG_INF)
    total = inside.logsumexp(dim=-1, keepdim=True)
    return torch.where(total == NEG_INF, inside, inside - total)


def expectation(probs: Tensor, values: Tensor) -> Tensor:  # [B, V], [B, V] float64
    """E_p[values] [B], where ids of probability zero do not count whatever their value."""
    return torch.where(probs > 0, probs * values, 0.0).sum(dim=-1)


def entropy(logprobs: Tensor) -> Tensor:  # [B, V] float64
    """H(p) [B], nats."""
    return -expectation(logprobs.exp(), logprobs)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:  # [B, V], [B, V] float64
    """KL(p‖q) [B], nats; inf where p draws an id that q cannot."""
    return expectation(log_p.exp(), log_p - log_q).clamp_min(0.0)


def js_divergence(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> Tensor:  # [B, V] float64 each
    """Jensen-Shannon divergence [B], nats, in [0, ln 2]: H((p+q)/2) − (H(p) + H(q))/2 (Lin 1991, eq. 4.1).

    Takes the probabilities beside their logarithms, which the caller has: an exponential of [B, V] saved each.
    """
    middle = (p + q) / 2
    mixed_nats = -torch.xlogy(middle, middle).sum(dim=-1)
    nats = -(_finite_product(p, log_p) + _finite_product(q, log_q)).sum(dim=-1)
    return (mixed_nats - nats / 2).clamp(0.0, math.log(2))


def _finite_product(probs: Tensor, logprobs: Tensor) -> Tensor:
    """p·log p, 0 where p is 0."""
    return probs * logprobs.clamp_min(LEAST)


def overlap(p: Tensor, q: Tensor, top_k: int) -> tuple[Tensor, Tensor]:  # [B, V], [B, V] float64 probabilities
    """The intersection of two top-k sets: its smaller mass [B] in [0, 1], its count [B] int64."""
    k = min(top_k, p.shape[-1])
    ids = [probs.topk(k, dim=-1).indices for probs in (p, q)]
    in_other = torch.zeros_like(p, dtype=torch.bool).scatter_(-1, ids[1], True).gather(-1, ids[0])
    masses = [probs.gather(-1, ids[0]) for probs in (p, q)]
    shared = in_other & (masses[0] > 0) & (masses[1] > 0)
    totals = [torch.where(shared, mass, 0.0).sum(dim=-1) for mass in masses]
    return torch.minimum(*totals).clamp(0.0, 1.0), shared.sum(dim=-1)


def top_p_support(probs: Tensor, top_p: float) -> Tensor:  # [B, V] float64 probabilities
    """The smallest set [B, V] bool of likeliest ids that holds `top_p` of the mass.

    Ids as likely as the last one taken are all in, so that the set does not depend on the ids' order.
    """
    ordered = probs.sort(dim=-1, descending=True).values
    before = ordered.cumsum(dim=-1) - ordered
    last = (before < top_p).sum(dim=-1, keepdim=True) - 1
    return (probs >= ordered.gather(-1, last)) & (probs > 0)


def compact(support: Tensor) -> tuple[Tensor, Tensor]:  # [B, V] bool
    """The ids [B, K] int64 of each row's support, ascending, with [B, K] bool where there is one.

    K is the largest support; shorter ones are filled up with id 0, where the second tensor is False.
    """
    sizes = support.sum(dim=-1)
    rows, ids = support.nonzero(as_tuple=True)
    starts = sizes.cumsum(dim=-1) - sizes
    places = torch.arange(len(ids), device=ids.device) - starts[rows]
    inside = torch.arange(int(sizes.max()), device=ids.device) < sizes[:, None]
    compacted = torch.zeros_like(inside, dtype=torch.int64)
    compacted[rows, places] = ids
    return compacted, inside


def top_k_support(logprobs: Tensor, top_k: int) -> Tensor:  # [B, V] float64
    """The `top_k` likeliest ids [B, V] bool, with those as likely as the last one."""
    least = logprobs.topk(min(top_k, logprobs.shape[-1]), dim=-1).values[:, -1:]
    return (logprobs >= least) & (logprobs > NEG_INF)


def min_p_support(logprobs: Tensor, min_p: float) -> Tensor:  # [B, V] float64
    """Ids [B, V] bool of at least `min_p` of the likeliest one's probability (Nguyen et al. 2024)."""
    return logprobs >= logprobs.amax(dim=-1, keepdim=True) + math.log(min_p)
