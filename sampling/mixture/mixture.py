"""The mixture q* of theta and the teacher at one position of each row, in plain torch with float64 sums.

    q*(y) = π_θ(y)^(1-α) · π_t(y)^α / Z(α)

Three protections apply: the forced first token (α = 1); the trust region, which restricts the support to the teacher's
top-p set, both distributions renormalised on it before α is solved; the stability check, which falls back to the
teacher (α = 1) where the full distributions differ too much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sampling.config import MixtureConfig, SamplingConfig
from sampling.mixture.alpha import solve_alpha
from sampling.mixture.distributions import (
    NEG_INF,
    ascending,
    compact,
    entropy,
    expectation,
    js_divergence,
    least_of_top_p,
    min_p_support,
    overlap,
    renormalise,
    softmax,
    top_k_support,
    top_p_support,
)
from sampling.results import FALLBACK, FORCED, MIXED

LARGEST_LOG = 700.0  # e^-700 is not 0 in float64
MAX_LOG_ESS_RATIO = 80.0  # e^80 still fits float32


@dataclass(frozen=True, slots=True)
class Mixture:
    """q* at one position of each of B rows, with its diagnostics.

    The KLs and the ESS ratio are those of q* before top-p, top-k and min-p cut it, on the support; `log_q`,
    `entropy`, `support_size` and `log_z` are those of the distribution that tokens are drawn from.
    """

    ids: Tensor  # [B, K] int64, ascending: the columns of log_q
    log_q: Tensor  # [B, K] float64, −inf outside the support
    log_theta: Tensor  # [B, V] float64, full distribution at the temperature
    log_teacher: Tensor  # [B, V] float64, full distribution at the temperature
    alpha: Tensor  # [B] float64
    kl_theta: Tensor  # [B] float64, nats
    kl_teacher: Tensor  # [B] float64, nats
    js: Tensor  # [B] float64, nats
    overlap_mass: Tensor  # [B] float64
    overlap_count: Tensor  # [B] int64
    support_size: Tensor  # [B] int64
    entropy: Tensor  # [B] float64, nats
    ess_ratio: Tensor  # [B] float64
    log_z: Tensor  # [B] float64, log Σ π_θ^(1-α)·π_t^α over what may be drawn, of the full distributions
    mode: Tensor  # [B] int64, MIXED, FORCED or FALLBACK
    constrained: Tensor  # [B] bool, the trust region removed ids
    unstable: Tensor  # [B] bool, a stability threshold was crossed, or no id is common to both
    finite: Tensor  # [B] bool; where False the logits held NaN, +inf or no finite number: no token may be drawn


def mix(
    theta_logits: Tensor,  # [B, V_theta] any float
    teacher_logits: Tensor,  # [B, V_teacher] any float
    first: Tensor,  # [B] bool, the row's first token
    num_ids: int,  # ids that both models know; columns past them are padding
    mixture: MixtureConfig,
    sampling: SamplingConfig,
    likeliest: Tensor | None = None,  # [B, num_ids] bool
) -> Mixture:
    """Return q* at one position of each row, from the two models' logits.

    `likeliest` (HTTP backend) marks the teacher's own top-k ids, among which the trust region is then searched. The
    last column is then the bucket of all ids without a logprob (sampling/served/support.py): it has mass and is never
    drawn.
    """
    logits, finite = _stacked(theta_logits[:, :num_ids], teacher_logits[:, :num_ids])
    temperature = sampling.temperature or 1.0
    logprobs, probs = softmax(logits, temperature)
    if likeliest is None:
        ranked = ascending(logits)
        overlap_mass, overlap_count = _overlap(probs, logits, ranked, mixture.overlap_top_k, temperature)
        js = js_divergence(logprobs[0], logprobs[1], probs[0], probs[1])
    else:
        js = _coarse_js(probs[0], probs[1])
        probs[..., -1] = 0.0
        overlap_mass, overlap_count = overlap(probs[0], probs[1], mixture.overlap_top_k)

    # From here on the rows are [B, K]: only the ids of the trust region, all ids where it is off.
    if mixture.trust_region:
        if likeliest is None:
            highest = logprobs[1].amax(dim=-1)
            inside = logits[1] >= least_of_top_p(ranked[1], highest, temperature, mixture.target_top_p)
        else:
            inside = top_p_support(probs[1].where(likeliest, 0.0), mixture.target_top_p)
        ids, region = compact(inside)
        on_ids = logprobs.gather(-1, ids.expand(2, -1, -1))
    else:
        ids = torch.arange(num_ids, device=logprobs.device).expand(len(finite), -1)
        region = torch.ones_like(ids, dtype=torch.bool)
        if likeliest is not None:
            region[:, -1] = False
        on_ids = logprobs
    common = region & (on_ids.amin(dim=0) > NEG_INF)
    disjoint = ~common.any(dim=-1)
    unstable = disjoint
    if mixture.stability_check:
        unstable = unstable | (js > mixture.stability_threshold_js)
        unstable = unstable | (overlap_mass < mixture.stability_threshold_overlap)

    forced = first & mixture.force_first_token
    fallback = ~forced & (unstable if mixture.auto_fallback else disjoint)
    models = renormalise(on_ids, common)
    solved = solve_alpha(models[0], models[1], mixture.alpha_method, mixture.alpha)
    alpha = solved.masked_fill(forced | fallback, 1.0)

    weight = alpha[:, None]
    if torch.equal(common, region):
        support, scores = region, weight * on_ids[1] + (1 - weight) * on_ids[0]
    else:  # both ends are exact: 0 is theta, 1 the teacher, also on ids where the other one's probability is zero
        support = torch.where((weight == 0) | (weight == 1), region, common)
        models = renormalise(on_ids, support)
        scores = torch.where(weight == 0, 0.0, weight * on_ids[1])
        scores = scores + torch.where(weight == 1, 0.0, (1 - weight) * on_ids[0])
    uncut_q = renormalise(scores, support)
    q = uncut_q.exp()
    kl_theta, kl_teacher = expectation(q, uncut_q - models).clamp_min(0.0)
    log_q = _cut(uncut_q, sampling)
    drawable = log_q > NEG_INF
    return Mixture(
        ids=ids,
        log_q=log_q,
        log_theta=logprobs[0],
        log_teacher=logprobs[1],
        alpha=alpha,
        kl_theta=kl_theta,
        kl_teacher=kl_teacher,
        js=js,
        overlap_mass=overlap_mass,
        overlap_count=overlap_count,
        support_size=drawable.sum(dim=-1),
        entropy=-expectation(q, uncut_q) if log_q is uncut_q else entropy(log_q),
        ess_ratio=_ess_ratio(uncut_q, models),
        log_z=scores.where(drawable, NEG_INF).amax(dim=-1) - log_q.amax(dim=-1),
        mode=torch.full_like(overlap_count, MIXED).masked_fill_(fallback, FALLBACK).masked_fill_(forced, FORCED),
        constrained=region.sum(dim=-1) < num_ids,
        unstable=unstable,
        finite=finite,
    )


def _stacked(theta_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return both models' logits [2, B, V] float32 or float64, with the usable rows [B] bool.

    A usable row holds neither NaN nor +inf, but a finite logit; the others are replaced by zeros.
    """
    dtype = torch.promote_types(torch.promote_types(theta_logits.dtype, teacher_logits.dtype), torch.float32)
    logits = torch.stack([theta_logits.to(dtype), teacher_logits.to(dtype)])
    finite = (logits.amax(dim=-1).abs() < math.inf).all(dim=0)  # the largest is NaN if any is NaN
    return logits if bool(finite.all()) else logits.masked_fill_(~finite[:, None], 0.0), finite


def _overlap(probs: Tensor, logits: Tensor, ranked: Tensor, top_k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Return `overlap` of two models [2, B, V], by the k-th logits where these determine both top-k sets.

    They do where the k-th logit has no tie and its probability is not 0. `ranked`: the logits, ascending.
    """
    if top_k < logits.shape[-1]:
        least = ranked[..., -top_k, None]
        determined = (least > ranked[..., -top_k - 1, None]) & (least > ranked[..., -1:] - LARGEST_LOG * temperature)
        if bool(determined.all()):
            shared = (logits[0] >= least[0]) & (logits[1] >= least[1])
            return probs.where(shared, 0.0).sum(dim=-1).amin(dim=0).clamp_max(1.0), shared.sum(dim=-1)
    return overlap(probs[0], probs[1], top_k)


def _coarse_js(theta: Tensor, teacher: Tensor) -> Tensor:  # [B, V], [B, V] float64 probabilities, the bucket last
    """Return the JS [B] of the two distributions, where ids without a logprob of one model count to the bucket."""
    both = (theta > 0) & (teacher > 0)
    both[:, -1] = False
    p, q = theta.where(both, 0.0), teacher.where(both, 0.0)
    for kept, probs in ((p, theta), (q, teacher)):
        kept[:, -1] = (probs.sum(dim=-1) - kept.sum(dim=-1)).clamp_min(0.0)
    return js_divergence(p.log(), q.log(), p, q)


def _ess_ratio(log_q: Tensor, models: Tensor) -> Tensor:  # [B, V], [2, B, V] float64
    """Return ESS_θ(q)/ESS_t(q) [B], with ESS_x(q) = 1 / Σ π_x²/q over q's support (Kong 1992)."""
    log_ratios = (2 * models - log_q).masked_fill_(log_q == NEG_INF, NEG_INF)
    log_sums = log_ratios.logsumexp(dim=-1)
    log_ratio = (log_sums[1] - log_sums[0]).nan_to_num_(0.0)
    return log_ratio.clamp_(-MAX_LOG_ESS_RATIO, MAX_LOG_ESS_RATIO).exp_()


def _cut(log_q: Tensor, sampling: SamplingConfig) -> Tensor:  # [B, V] float64
    """Return q* after top-k, then top-p (vLLM's order), then min-p, each renormalised."""
    if sampling.top_k:
        log_q = renormalise(log_q, top_k_support(log_q, sampling.top_k))
    if sampling.top_p < 1:
        log_q = renormalise(log_q, top_p_support(log_q.exp(), sampling.top_p))
    if sampling.min_p > 0:
        log_q = renormalise(log_q, min_p_support(log_q, sampling.min_p))
    return log_q


def kl_error(mixture: Mixture) -> Tensor:
    """Return |KL(q*‖π_θ) − KL(q*‖π_t)| [B] float64, nats; inf where one of the two is."""
    return (mixture.kl_theta - mixture.kl_teacher).abs()
