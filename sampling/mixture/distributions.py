"""Entropies, divergences and supports of distributions over a vocabulary.

Distributions are rows of log-probabilities, natural log, float64: a float32 sum over 152,000 terms alone
errs by 1.2e-6 nats, more than the 1e-6 that a mixed token is allowed in all. An id of probability zero
has −inf, and 0·log 0 counts as 0.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

NEG_INF = -math.inf
HEAD = 32  # likeliest ids that are searched for a trust region first: usually it has a dozen


def softmax(logits: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:  # [..., V] any float
    """Return log-probabilities and probabilities [..., V] float64 at a temperature; 0 counts as 1."""
    scaled = logits.double()
    if temperature not in (0.0, 1.0):
        scaled = scaled / temperature
    logprobs = scaled - scaled.amax(dim=-1, keepdim=True)
    probs = logprobs.exp()
    total = probs.sum(dim=-1, keepdim=True)
    return logprobs.sub_(total.log()), probs.div_(total)


def renormalise(logprobs: Tensor, support: Tensor) -> Tensor:  # [..., B, V] float64, [B, V] bool
    """Return log-probabilities [..., B, V] restricted to a support; all −inf where the support has no mass."""
    if not bool(support.all()):
        logprobs = logprobs.masked_fill(~support, NEG_INF)
    return logprobs.log_softmax(dim=-1).nan_to_num_(NEG_INF, math.inf, NEG_INF)


def expectation(probs: Tensor, values: Tensor) -> Tensor:  # [..., V], [..., V] float64
    """Return E_p[values] [...]; an id of probability zero counts as 0 even if its value is infinite."""
    return (probs * values).nansum(dim=-1)


def entropy(logprobs: Tensor) -> Tensor:  # [B, V] float64
    """Return H(p) [B], nats."""
    return -expectation(logprobs.exp(), logprobs)


def js_divergence(log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor) -> Tensor:  # [B, V] float64 each
    """Return the Jensen-Shannon divergence [B], nats, in [0, ln 2]: H((p+q)/2) − (H(p) + H(q))/2 (Lin 1991, eq. 4.1).

    Takes the probabilities beside their logarithms, which saves an exponential of [B, V] each.
    """
    middle = (p + q).mul_(0.5)
    mixed_nats = middle.log().mul_(middle).nansum(dim=-1)
    nats = expectation(p, log_p) + expectation(q, log_q)
    return (nats / 2 - mixed_nats).clamp(0.0, math.log(2))


def overlap(p: Tensor, q: Tensor, top_k: int) -> tuple[Tensor, Tensor]:  # [B, V], [B, V] float64 probabilities
    """Return the smaller mass [B] in [0, 1] and the size [B] int64 of the intersection of two top-k sets."""
    k = min(top_k, p.shape[-1])
    ids = [probs.topk(k, dim=-1).indices for probs in (p, q)]
    in_other = torch.zeros_like(p, dtype=torch.bool).scatter_(-1, ids[1], True).gather(-1, ids[0])
    masses = [probs.gather(-1, ids[0]) for probs in (p, q)]
    shared = in_other & (masses[0] > 0) & (masses[1] > 0)
    totals = [torch.where(shared, mass, 0.0).sum(dim=-1) for mass in masses]
    return torch.minimum(*totals).clamp(0.0, 1.0), shared.sum(dim=-1)


def ascending(values: Tensor) -> Tensor:  # [..., V] float32 or float64
    """Return each row sorted, ascending, NaN last; on a CPU by numpy, whose sort is 5 to 20 times as fast."""
    return torch.from_numpy(np.sort(values.numpy())) if values.is_cpu else values.sort(dim=-1).values


def top_p_support(probs: Tensor, top_p: float) -> Tensor:  # [B, V] float64 probabilities
    """Return the smallest set [B, V] bool of likeliest ids that holds `top_p` of the mass (Holtzman et al. 2020).

    Ids as likely as the last one taken are all in, so that the set does not depend on the ids' order.
    """
    ordered = ascending(probs).flip(-1)
    return (probs >= ordered.gather(-1, _last_of_top_p(ordered, top_p))) & (probs > 0)


def least_of_top_p(ranked: Tensor, highest: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return the least logit [B, 1] of the smallest set of likeliest ids that holds `top_p` of the mass.

    `ranked`: [B, V] logits in ascending order; `highest`: [B] float64, the likeliest id's log-probability.
    """
    num = HEAD
    while True:
        head = ranked[:, -num:].flip(-1)
        below = head.double()
        below = (below - below[:, :1]) / temperature
        last = _last_of_top_p((below + highest[:, None]).exp(), top_p)
        if num >= ranked.shape[-1] or int(last.max()) < num - 1:
            return head.gather(-1, last)
        num *= 8


def _last_of_top_p(ordered: Tensor, top_p: float) -> Tensor:  # [B, V] float64 probabilities, descending
    """Return the column [B, 1] at which the mass reaches `top_p`; the last one with mass where it never does."""
    before = ordered.cumsum(dim=-1) - ordered
    inside = (before < top_p) & (ordered > 0)
    return (inside.sum(dim=-1, keepdim=True) - 1).clamp_min_(0)


def compact(support: Tensor) -> tuple[Tensor, Tensor]:  # [B, V] bool
    """Return the ids [B, K] int64 of each row's support, ascending, with a mask [B, K] bool of valid entries.

    K is the size of the largest support; shorter ones are padded with id 0.
    """
    sizes = support.sum(dim=-1)
    ids = support.nonzero(as_tuple=True)[1]
    inside = torch.arange(int(sizes.max()), device=ids.device) < sizes[:, None]
    compacted = torch.zeros_like(inside, dtype=torch.int64)
    return compacted.masked_scatter_(inside, ids), inside


def top_k_support(logprobs: Tensor, top_k: int) -> Tensor:  # [B, V] float64
    """Return the `top_k` likeliest ids [B, V] bool, with those as likely as the last one."""
    least = logprobs.topk(min(top_k, logprobs.shape[-1]), dim=-1).values[:, -1:]
    return (logprobs >= least) & (logprobs > NEG_INF)


def min_p_support(logprobs: Tensor, min_p: float) -> Tensor:  # [B, V] float64
    """Return the ids [B, V] bool with at least `min_p` of the likeliest one's probability (Nguyen et al. 2024)."""
    return logprobs >= logprobs.amax(dim=-1, keepdim=True) + math.log(min_p)
