"""The solver of α, the teacher's weight in the mixture.

With q_α ∝ π_θ^(1-α)·π_t^α and d = log π_t − log π_θ, log Z(α) is convex: its first derivative is E_q[d] =
KL(q‖π_θ) − KL(q‖π_t), its second Var_q[d]. The KL-symmetric α is its minimum, the Chernoff point of the two
distributions (Chernoff 1952; Nielsen 2013, "An information-geometric characterization of Chernoff information").
At α = 0 the derivative is −KL(π_θ‖π_t) ≤ 0, at α = 1 it is KL(π_t‖π_θ) ≥ 0: a root is always in between.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sampling.config import AlphaMethod
from sampling.distributions import LEAST, NEG_INF, entropy

EQUAL_ALPHA = 0.5  # any α is right for two equal distributions
TOLERANCE = 1e-12  # nats of E_q[d]; the product promises 1e-6
MAX_PASSES = 100  # 4 to 8 are usual; bisection alone needs 53 to exhaust float64

Curve = Callable[[Tensor], tuple[Tensor, Tensor]]


def solve_alpha(log_theta: Tensor, log_teacher: Tensor, method: AlphaMethod, fixed: float) -> Tensor:
    """The teacher's weight [B] float64 in [0, 1].

    `log_theta`, `log_teacher`: [B, V] float64, both normalised over one common support, −inf outside it.
    A row whose support is empty gets EQUAL_ALPHA.
    """
    if method == "fixed":
        return torch.full_like(log_theta[:, 0], fixed)
    if method == "entropy":
        theta_nats, teacher_nats = entropy(log_theta), entropy(log_teacher)
        total = theta_nats + teacher_nats
        return torch.where(total > 0, theta_nats / total.clamp_min(1e-300), EQUAL_ALPHA)
    inside = (log_theta > NEG_INF) & (log_teacher > NEG_INF)
    gap = torch.where(inside, log_teacher - log_theta, 0.0)
    log_theta = log_theta.masked_fill(~inside, NEG_INF)

    def tilted(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log Σ π_θ·e^(weight·d), E[d], Var[d] under that tilt, each [B]."""
        scores = log_theta + weight[:, None] * gap
        highest = scores.amax(dim=-1, keepdim=True).clamp_min(LEAST)  # −inf where the support is empty
        weights = (scores - highest).exp()
        total = weights.sum(dim=-1).clamp_min(1e-300)
        mean = (weights * gap).sum(dim=-1) / total
        variance = (weights * (gap - mean[:, None]) ** 2).sum(dim=-1) / total
        return highest[:, 0] + total.log(), mean, variance

    def kl_gap(alpha: Tensor) -> tuple[Tensor, Tensor]:
        """KL(q‖π_θ) − KL(q‖π_t) with its slope."""
        _, mean, variance = tilted(alpha)
        return mean, variance

    def ess_gap(alpha: Tensor) -> tuple[Tensor, Tensor]:
        """log ESS_t(q) − log ESS_θ(q) with its slope, negative at 0, positive at 1.

        1/ESS_x = Σ π_x²/q = Z·Σ π_θ·e^(w·d), with w = −α for theta, w = 2 − α for the teacher.
        """
        log_theta_sum, theta_mean, _ = tilted(-alpha)
        log_teacher_sum, teacher_mean, _ = tilted(2 - alpha)
        return log_theta_sum - log_teacher_sum, teacher_mean - theta_mean

    alpha = _bracketed_newton(kl_gap if method == "kl_symmetry" else ess_gap, log_theta[:, 0])
    return torch.where(inside.any(dim=-1), alpha, EQUAL_ALPHA)


def _bracketed_newton(curve: Curve, like: Tensor) -> Tensor:
    """The root [B] in [0, 1] of an increasing curve; EQUAL_ALPHA where the curve is flat at zero.

    A Newton step that leaves the bracket, or fails to halve the residual, is replaced by bisection.
    """
    low, high = torch.zeros_like(like), torch.ones_like(like)
    alpha = torch.full_like(like, EQUAL_ALPHA)
    previous = torch.full_like(like, torch.inf)
    for _ in range(MAX_PASSES):
        value, slope = curve(alpha)
        size = value.abs()
        done = (size <= TOLERANCE) | (high - low <= 1e-16) | value.isnan()
        if bool(done.all()):
            break
        low = torch.where(value < 0, alpha, low)
        high = torch.where(value > 0, alpha, high)
        newton = alpha - value / slope.clamp_min(1e-300)
        trusted = (newton > low) & (newton < high) & (size <= previous / 2)
        step = torch.where(trusted, newton, (low + high) / 2)
        alpha, previous = torch.where(done, alpha, step), size
    return alpha
