"""The mixture q* of theta and the teacher at one position of each row.

    q*(y) = π_θ(y)^(1-α) · π_t(y)^α / Z(α)

Three protections, in the order they decide: the forced first token (α = 1); the trust region, which restricts
the support to the teacher's top-p set, both distributions renormalised on it before α is solved; the
stability check, which falls back to the teacher (α = 1) where the full distributions differ too much.
This is the reference in plain torch; every sum is float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sampling.alpha import solve_alpha
from sampling.config import MixtureConfig, SamplingConfig
from sampling.distributions import (
    NEG_INF,
    compact,
    entropy,
    js_divergence,
    kl_divergence,
    log_softmax,
    min_p_support,
    overlap,
    renormalise,
    top_k_support,
    top_p_support,
)
from sampling.results import FALLBACK, FORCED, MIXED

MAX_LOG_ESS_RATIO = 80.0  # e^80 still fits float32; beyond it the ratio says nothing more


@dataclass(frozen=True, slots=True)
class Mixture:
    """q* at one position of each of B rows, with what was measured on the way.

    The KLs and the ESS ratio are q*'s before top-p, top-k and min-p cut it, on the support; `log_q`,
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
    constrained: Tensor  # [B] bool, the trust region took ids away
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
    """q* at one position of each row, from the two models' logits.

    With `likeliest` the last column is the bucket of all ids of which nothing was said (sampling/http/union.py): it has
    mass and is never drawn. The trust region is then taken of the ids that `likeliest` names, the teacher's own first.
    """
    theta_logits, teacher_logits = theta_logits[:, :num_ids], teacher_logits[:, :num_ids]
    finite = _usable(theta_logits) & _usable(teacher_logits)
    log_theta = log_softmax(theta_logits.where(finite[:, None], 0.0), sampling.temperature)
    log_teacher = log_softmax(teacher_logits.where(finite[:, None], 0.0), sampling.temperature)
    theta, teacher = log_theta.exp(), log_teacher.exp()
    if likeliest is None:
        js = js_divergence(log_theta, log_teacher, theta, teacher)
    else:
        js = _coarse_js(theta, teacher)
        theta, teacher = _without_bucket(theta), _without_bucket(teacher)
    overlap_mass, overlap_count = overlap(theta, teacher, mixture.overlap_top_k)

    # From here on the rows are [B, K]: the ids of the trust region alone, all ids where it is off.
    if mixture.trust_region:
        own = teacher if likeliest is None else teacher.where(likeliest, 0.0)
        ids, region = compact(top_p_support(own, mixture.target_top_p))
    else:
        ids = torch.arange(num_ids, device=log_theta.device).expand(len(log_theta), -1)
        region = torch.ones_like(ids, dtype=torch.bool)
        if likeliest is not None:
            region[:, -1] = False
    in_theta, in_teacher = log_theta.gather(-1, ids), log_teacher.gather(-1, ids)
    common = region & (in_theta > NEG_INF) & (in_teacher > NEG_INF)
    disjoint = ~common.any(dim=-1)
    unstable = disjoint
    if mixture.stability_check:
        unstable = unstable | (js > mixture.stability_threshold_js)
        unstable = unstable | (overlap_mass < mixture.stability_threshold_overlap)

    forced = first & mixture.force_first_token
    fallback = ~forced & (unstable if mixture.auto_fallback else disjoint)
    solved = solve_alpha(
        renormalise(in_theta, common), renormalise(in_teacher, common), mixture.alpha_method, mixture.alpha
    )
    alpha = torch.where(forced | fallback, 1.0, solved)

    # Both ends are exact: 0 is theta, 1 the teacher, also on ids where the other one's probability is zero.
    weight = alpha[:, None]
    support = torch.where((weight == 0) | (weight == 1), region, common)
    on_theta, on_teacher = renormalise(in_theta, support), renormalise(in_teacher, support)
    scores = torch.where(weight == 0, 0.0, weight * in_teacher)
    scores = scores + torch.where(weight == 1, 0.0, (1 - weight) * in_theta)
    whole_q = renormalise(scores, support)
    log_q = _cut(whole_q, sampling)
    return Mixture(
        ids=ids,
        log_q=log_q,
        log_theta=log_theta,
        log_teacher=log_teacher,
        alpha=alpha,
        kl_theta=kl_divergence(whole_q, on_theta),
        kl_teacher=kl_divergence(whole_q, on_teacher),
        js=js,
        overlap_mass=overlap_mass,
        overlap_count=overlap_count,
        support_size=(log_q > NEG_INF).sum(dim=-1),
        entropy=entropy(log_q),
        ess_ratio=_ess_ratio(whole_q, on_theta, on_teacher),
        log_z=scores.where(log_q > NEG_INF, NEG_INF).logsumexp(dim=-1),
        mode=torch.where(forced, FORCED, torch.where(fallback, FALLBACK, MIXED)),
        constrained=region.sum(dim=-1) < num_ids,
        unstable=unstable,
        finite=finite,
    )


def _without_bucket(probs: Tensor) -> Tensor:  # [B, V]
    """The same [B, V] with nothing in the last column."""
    return torch.cat([probs[:, :-1], torch.zeros_like(probs[:, -1:])], dim=-1)


def _coarse_js(theta: Tensor, teacher: Tensor) -> Tensor:  # [B, V], [B, V] float64 probabilities, the bucket last
    """JS [B] of the two distributions in which an id of which one model said nothing counts to the bucket."""
    both = (theta > 0) & (teacher > 0)
    both[:, -1] = False
    sides = []
    for probs in (theta, teacher):
        kept = torch.where(both, probs, 0.0)
        kept[:, -1] = (probs.sum(dim=-1) - kept.sum(dim=-1)).clamp_min(0.0)
        sides.append(kept)
    return js_divergence(sides[0].log(), sides[1].log(), *sides)


def _usable(logits: Tensor) -> Tensor:  # [B, V] any float
    """Rows [B] bool without NaN or +inf that have at least one finite logit."""
    highest = logits.amax(dim=-1)  # NaN if any is NaN
    return highest.isfinite()


def _ess_ratio(log_q: Tensor, on_theta: Tensor, on_teacher: Tensor) -> Tensor:  # [B, V] float64 each
    """ESS_θ(q)/ESS_t(q) [B], with ESS_x(q) = 1 / Σ π_x²/q over q's support (Kong 1992)."""
    inside = log_q > NEG_INF

    def log_sum(on_model: Tensor) -> Tensor:
        return torch.where(inside, 2 * on_model - log_q, NEG_INF).logsumexp(dim=-1)

    log_ratio = log_sum(on_teacher) - log_sum(on_theta)
    return log_ratio.nan_to_num(nan=0.0).clamp(-MAX_LOG_ESS_RATIO, MAX_LOG_ESS_RATIO).exp()


def _cut(log_q: Tensor, sampling: SamplingConfig) -> Tensor:  # [B, V] float64
    """q* after top-k, then top-p, then min-p, each renormalised, in vLLM's order of the first two."""
    if sampling.top_k:
        log_q = renormalise(log_q, top_k_support(log_q, sampling.top_k))
    if sampling.top_p < 1:
        log_q = renormalise(log_q, top_p_support(log_q.exp(), sampling.top_p))
    if sampling.min_p > 0:
        log_q = renormalise(log_q, min_p_support(log_q, sampling.min_p))
    return log_q


def kl_error(mixture: Mixture) -> Tensor:
    """|KL(q*‖π_θ) − KL(q*‖π_t)| [B] float64, nats; inf where one of the two is."""
    return (mixture.kl_theta - mixture.kl_teacher).abs()
