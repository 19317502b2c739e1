"""The solver of α, the teacher's weight in the mixture.

With q_α ∝ π_θ^(1-α)·π_t^α and d = log π_t − log π_θ, log Z(α) is convex: its first derivative is E_q[d] =
KL(q‖π_θ) − KL(q‖π_t), its second Var_q[d]. The KL-symmetric α is its minimum, the Chernoff point of the two
distributions (Chernoff 1952; Nielsen 2013, "An information-geometric characterization of Chernoff information").
At α = 0 the derivative is −KL(π_θ‖π_t) ≤ 0, at α = 1 it is KL(π_t‖π_θ) ≥ 0, so a root lies in between.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sampling.config import AlphaMethod
from sampling.mixture.distributions import entropy

EQUAL_ALPHA = 0.5  # any α is right for two equal distributions
TOLERANCE = 1e-12  # nats of E_q[d]; the product promises 1e-6
NEWTON_PASSES = 16  # 1 to 6 are usual in a trust region, 6 to 10 over a whole vocabulary
MAX_PASSES = 100  # bisection alone needs 53 to exhaust float64
MIN_SLOPE = 1e-300  # of a flat curve: a step divided by it leaves the bracket, or is 0

Curve = Callable[[Tensor], tuple[Tensor, Tensor]]  # α [B] to the value [B] with the slope [B]


def solve_alpha(log_theta: Tensor, log_teacher: Tensor, method: AlphaMethod, fixed: float) -> Tensor:
    """Return the teacher's weight [B] float64 in [0, 1]; EQUAL_ALPHA for a row whose support is empty.

    `log_theta`, `log_teacher`: [B, V] float64, both normalised over one common support, −inf outside it.
    """
    if method == "fixed":
        return torch.full_like(log_theta[:, 0], fixed)
    if method == "entropy":
        theta_nats, teacher_nats = entropy(log_theta), entropy(log_teacher)
        total = theta_nats + teacher_nats
        return torch.where(total > 0, theta_nats / total.clamp_min(1e-300), EQUAL_ALPHA)
    gap = (log_teacher - log_theta).nan_to_num(0.0, 0.0, 0.0)  # outside the support it has no weight

    def tilted(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log π_θ + weight·d [B, V] with E[d] and Var[d] [B] under that tilt; NaN where the support is empty."""
        scores = torch.addcmul(log_theta, weight[:, None], gap)
        weights = scores.softmax(dim=-1)
        mean = weights.mul_(gap).sum(dim=-1)
        return scores, mean, weights.mul_(gap).sum(dim=-1).addcmul_(mean, mean, value=-1)

    def ess_gap(alpha: Tensor) -> tuple[Tensor, Tensor]:
        """log ESS_t(q) − log ESS_θ(q) with its slope, negative at 0, positive at 1.

        1/ESS_x = Σ π_x²/q = Z·Σ π_θ·e^(w·d), with w = −α for theta, w = 2 − α for the teacher.
        """
        theta_scores, theta_mean, _ = tilted(-alpha)
        teacher_scores, teacher_mean, _ = tilted(2 - alpha)
        return theta_scores.logsumexp(dim=-1) - teacher_scores.logsumexp(dim=-1), teacher_mean - theta_mean

    # E_q[d] = KL(q‖π_θ) − KL(q‖π_t), with its slope Var_q[d]
    curve: Curve = (lambda alpha: tilted(alpha)[1:]) if method == "kl_symmetry" else ess_gap
    return _newton(curve, torch.full_like(log_theta[:, 0], EQUAL_ALPHA))


def _newton(curve: Curve, start: Tensor) -> Tensor:
    """Return the root [B] in [0, 1] of an increasing curve; the start where the curve is flat at zero there, or NaN.

    No step goes more than half-way to an end. Rows not solved within NEWTON_PASSES are solved with a bracket.
    """
    alpha = start
    for _ in range(NEWTON_PASSES):
        value, slope = curve(alpha)
        unsolved = value.abs() > TOLERANCE
        if not bool(unsolved.any()):
            return alpha
        newton, half = torch.addcdiv(alpha, value, slope.clamp_min(MIN_SLOPE), value=-1), alpha / 2
        alpha = torch.where(unsolved, newton.clamp(half, half + 0.5), alpha)
    unsolved = curve(alpha)[0].abs() > TOLERANCE
    return torch.where(unsolved, _bracketed_newton(curve, start), alpha)


def _bracketed_newton(curve: Curve, start: Tensor) -> Tensor:
    """Return the same root of any increasing curve.

    A Newton step that leaves the bracket, or fails to halve the residual, is replaced by bisection.
    """
    low, high = torch.zeros_like(start), torch.ones_like(start)
    alpha = start
    previous = torch.full_like(start, torch.inf)
    for _ in range(MAX_PASSES):
        value, slope = curve(alpha)
        residual = value.abs()
        done = (residual <= TOLERANCE) | (high - low <= 1e-16) | value.isnan()
        if bool(done.all()):
            break
        low = torch.where(value < 0, alpha, low)
        high = torch.where(value > 0, alpha, high)
        newton = alpha - value / slope.clamp_min(MIN_SLOPE)
        trusted = (newton > low) & (newton < high) & (residual <= previous / 2)
        step = torch.where(trusted, newton, (low + high) / 2)
        alpha, previous = torch.where(done, alpha, step), residual
    return alpha
