"""The merged support of two top-k replies: both models' logprobs on one set of ids.

A server returns the logprobs of its k likeliest ids and of named ids, all exact. The remaining ids are merged into one
bucket, the tail, whose mass is known and which is never drawn, so that the error is bounded. (Logits columns past the
tokenizer's ids are assumed to have no mass, as in trained models. Their mass counts to the tail; lockstep masks them.)

    JS     The true JS exceeds that of the coarse distributions (ids that one model did not return count to the
           bucket) by at most ln 2 · (tail_θ + tail_t) / 2: within the bucket JS is at most ln 2.
    q*     It lacks the set M of ids that one model did not return. At the same α, by Hölder's inequality,
           Σ_M π_θ^(1-α)·π_t^α ≤ π_θ(M)^(1-α)·π_t(M)^α = b: the total variation from the exact q* is at most
           b / (Z + b), with Z the sum over the ids that can be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_TAIL = 1e-6  # float32 logprobs sum to their mass within some 1e-7: a smaller tail cannot be told from none


@dataclass(frozen=True, slots=True)
class PartialDistribution:
    """One model's next-token weights π^(1/T) on some ids, and the sum over all others."""

    ids: Ints  # [K] different ones, of those that both models have
    log_weights: Floats  # [K] log π / T
    is_top: NDArray[np.bool_]  # [K] among its k likeliest ids; False: it was named
    log_tail: float  # log of the sum of all other ids' weights, or of its upper bound; −inf where none is left

    @property
    def tail_share(self) -> float:
        """The tail's share of all weight, in [0, 1]."""
        return float(_shares(np.append(self.log_weights, self.log_tail))[-1])


@dataclass(frozen=True, slots=True)
class MergedSupport:
    """Both models' weights on the union of their ids, with the tail as the last column."""

    ids: Ints  # [U] ascending
    theta: Floats  # [U+1] log weights, −inf where theta returned none
    teacher: Floats  # [U+1]
    # Among the teacher's k likeliest ids. Only these can be assigned to its top-p set: an id that it did not return may
    # be likelier than a named one.
    teacher_top: NDArray[np.bool_]  # [U]
    # Shares of all weight, in [0, 1].
    theta_tail: float  # of ids that theta did not return
    teacher_tail: float
    theta_only: float  # of ids that theta alone returned
    teacher_only: float
    teacher_top_share: float  # of the teacher's k likeliest ids


def partial_distribution(
    ids: Ints, logprobs: Floats, num_top: int, num_ids: int, temperature: float, eos_ids: Sequence[int] = ()
) -> PartialDistribution:
    """Return one model's reply at a temperature.

    `ids`, `logprobs` [K]: natural log, full distribution at T = 1; the first `num_top` are the likeliest, the others
    named. Ids from `num_ids` on are missing in the other model: their mass stays in the tail. Those of `eos_ids` are
    one event, for which the first stands; what the reply lacks of them stays in the tail. T = 0 counts as 1: the
    argmax is taken of that q*. At T ≠ 1 a tail of mass t over m ids of at most l each has weights that sum to at most
    t·l^(1/T−1) for T < 1 (as few ids as can hold it), m·(t/m)^(1/T) for T > 1 (all alike): these bounds are used.
    """
    least = float(logprobs[:num_top].min()) if num_top else 0.0
    ending = np.isin(ids, eos_ids)
    shared = (ids < num_ids) | ending
    is_top = (np.arange(len(ids)) < num_top)[shared]
    ids, logprobs, ending = ids[shared], logprobs[shared], ending[shared]
    power = 1.0 / (temperature or 1.0)
    tail = max(MIN_TAIL, 1.0 - float(np.exp(logprobs).sum()))
    num_left = num_ids - len(ids)
    if num_left <= 0:
        log_tail = -math.inf
    elif power > 1.0:
        log_tail = math.log(tail) + (power - 1.0) * min(least, 0.0)
    elif power == 1.0:  # apart from the case above: 0 · −inf is NaN
        log_tail = math.log(tail)
    else:
        log_tail = math.log(num_left) + power * math.log(tail / num_left)
    log_weights = logprobs * power
    if ending.any():
        ids = np.append(ids[~ending], eos_ids[0])
        log_weights = np.append(log_weights[~ending], np.logaddexp.reduce(log_weights[ending]))
        is_top = np.append(is_top[~ending], is_top[ending].any())
    return PartialDistribution(ids, log_weights, is_top, log_tail)


def merge(theta: PartialDistribution, teacher: PartialDistribution) -> MergedSupport:
    """Return both distributions on the union of their ids."""
    ids = np.union1d(theta.ids, teacher.ids)
    columns = np.full((2, len(ids) + 1), -np.inf)
    for column, side in zip(columns, (theta, teacher), strict=True):
        column[np.searchsorted(ids, side.ids)] = side.log_weights
        column[-1] = side.log_tail
    teacher_top = np.zeros(len(ids), dtype=bool)
    teacher_top[np.searchsorted(ids, teacher.ids[teacher.is_top])] = True
    theta_shares, teacher_shares = map(_shares, columns)
    lacks_theta, lacks_teacher = np.isneginf(columns[:, :-1])
    return MergedSupport(
        ids=ids,
        theta=columns[0],
        teacher=columns[1],
        teacher_top=teacher_top,
        theta_tail=float(theta_shares[-1]),
        teacher_tail=float(teacher_shares[-1]),
        theta_only=float(theta_shares[:-1][lacks_teacher].sum()),
        teacher_only=float(teacher_shares[:-1][lacks_theta].sum()),
        teacher_top_share=float(teacher_shares[:-1][teacher_top].sum()),
    )


def js_error(support: MergedSupport) -> float:
    """Return by how much the JS divergence of the coarse distributions may be too small, nats."""
    merged = support.theta_tail + support.theta_only + support.teacher_tail + support.teacher_only
    return math.log(2.0) * min(1.0, merged / 2.0)


def q_error(support: MergedSupport, alpha: float, log_z: float, target_top_p: float | None) -> float:
    """Return an upper bound of the total variation between the sampled q* and the exact one, at the same α.

    `log_z` is log Σ π_θ^(1-α)·π_t^α over what could be drawn. With a trust region (`target_top_p`) tokens are drawn
    from the teacher's k likeliest ids: where these hold that mass, no other id belongs to q*; where they do not, all of
    them do, and the missing ones are among the others.
    """
    covered = target_top_p is not None and support.teacher_top_share >= target_top_p
    if covered:
        missing_theta, missing_teacher = support.theta_tail, support.teacher_only
    elif target_top_p is not None:
        missing_theta, missing_teacher = 1.0, 1.0 - support.teacher_top_share + support.teacher_only
    else:
        missing_theta = support.theta_tail + support.theta_only
        missing_teacher = support.teacher_tail + support.teacher_only
    if alpha == 1.0:  # all ids that the teacher returned can be drawn
        missing_theta, missing_teacher = 1.0, 0.0 if covered else 1.0 - support.teacher_top_share
        if target_top_p is None:
            missing_teacher = support.teacher_tail
    elif alpha == 0.0:
        missing_theta, missing_teacher = (support.theta_tail if missing_teacher > 0.0 else 0.0), 1.0
        if target_top_p is not None and not covered:
            missing_theta = 1.0
    if missing_theta <= 0.0 or missing_teacher <= 0.0:
        return 0.0
    log_b = (1.0 - alpha) * math.log(missing_theta) + alpha * math.log(missing_teacher)
    return float(1.0 / (1.0 + math.exp(min(700.0, log_z - log_b))))


def _shares(column: Floats) -> Floats:
    weights: Floats = np.exp(column - column.max())
    return weights / float(weights.sum())
