"""Two models' next-token distributions on the ids that they say something of.

A server gives the logprobs of its k likeliest ids, and of ids that are named. What it gives is exact. All the
rest is carried as one bucket, the tail, whose mass is known and which is never drawn. So nothing is invented,
and what may be wrong is bounded. (Columns that a server has past the tokenizer's ids are taken for what trained models
make of them: of no mass. What they have counts to the tail, where lockstep masks them.)

    JS     The true one is larger than that of the coarse distributions (an id of which one model said nothing
           counts to the bucket), by at most ln 2 · (tail_θ + tail_t) / 2: within the bucket JS is at most ln 2.
    q*     It lacks the ids M of which a model said nothing. At the same α, by Hölder's inequality,
           Σ_M π_θ^(1-α)·π_t^α ≤ π_θ(M)^(1-α)·π_t(M)^α = b: the total variation from the exact q* is at most
           b / (Z + b), with Z the sum over the ids that can be drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_TAIL = 1e-6  # float32 logprobs sum to their mass within some 1e-7: a smaller tail cannot be told from none


@dataclass(frozen=True, slots=True)
class Known:
    """What one model says of a row's next token, at a temperature T."""

    ids: Ints  # [K] different ones, of those that both models know
    log_weights: Floats  # [K] log π / T
    is_top: NDArray[np.bool_]  # [K] of its k likeliest ids; False: it was named
    log_tail: float  # log of the sum of all other ids' weights, or of its upper bound; −inf where nothing is left

    @property
    def tail_share(self) -> float:
        """Of all weight, in [0, 1]."""
        return float(_shares(np.append(self.log_weights, self.log_tail))[-1])


@dataclass(frozen=True, slots=True)
class MergedSupport:
    """Both models on one set of ids, with the bucket as the last column."""

    ids: Ints  # [U] ascending
    theta: Floats  # [U+1] log weights, −inf where theta said nothing
    teacher: Floats  # [U+1]
    # Only these can be told to belong to the teacher's top-p set: an id that it was not asked for may be likelier than
    # one that was named.
    teacher_top: NDArray[np.bool_]  # [U] of the teacher's k likeliest ids
    # Shares of all weight, in [0, 1].
    theta_tail: float  # of ids of which theta said nothing
    teacher_tail: float
    theta_alone: float  # of ids of which theta alone spoke
    teacher_alone: float
    teacher_top_share: float  # of the teacher's k likeliest ids


def known(ids: Ints, logprobs: Floats, num_top: int, num_ids: int, temperature: float) -> Known:
    """One model's reply at a temperature.

    `ids`, `logprobs` [K]: natural log, full distribution at T = 1; the first `num_top` are the likeliest, others were
    named. Ids from `num_ids` on are unknown to the other model: their mass stays in the tail. T = 0 counts as 1: the
    argmax is taken of that q*. At T ≠ 1 a tail of mass t over m ids of at most l each has weights that sum to at most
    t·l^(1/T−1) for T < 1 (as few ids as can hold it), m·(t/m)^(1/T) for T > 1 (all alike): these bounds are carried.
    """
    least = float(logprobs[:num_top].min()) if num_top else 0.0
    shared = ids < num_ids
    is_top = (np.arange(len(ids)) < num_top)[shared]
    ids, logprobs = ids[shared], logprobs[shared]
    power = 1.0 / (temperature or 1.0)
    tail = max(LEAST_TAIL, 1.0 - float(np.exp(logprobs).sum()))
    num_left = num_ids - len(ids)
    if num_left <= 0:
        return Known(ids, logprobs * power, is_top, -math.inf)
    if power >= 1.0:
        bound = (power - 1.0) * min(least, 0.0) if power > 1.0 else 0.0  # 0 · −inf is no number
        return Known(ids, logprobs * power, is_top, math.log(tail) + bound)
    return Known(ids, logprobs * power, is_top, math.log(num_left) + power * math.log(tail / num_left))


def unite(theta: Known, teacher: Known) -> MergedSupport:
    """Both replies on the union of their ids."""
    ids = np.union1d(theta.ids, teacher.ids)
    columns = []
    for side in (theta, teacher):
        column = np.full(len(ids) + 1, -np.inf)
        column[np.searchsorted(ids, side.ids)] = side.log_weights
        column[-1] = side.log_tail
        columns.append(column)
    shares = [_shares(column) for column in columns]
    teacher_top = np.zeros(len(ids), dtype=bool)
    teacher_top[np.searchsorted(ids, teacher.ids[teacher.is_top])] = True
    spoken = [~np.isneginf(column[:-1]) for column in columns]
    return MergedSupport(
        ids=ids,
        theta=columns[0],
        teacher=columns[1],
        teacher_top=teacher_top,
        theta_tail=float(shares[0][-1]),
        teacher_tail=float(shares[1][-1]),
        theta_alone=float(shares[0][:-1][~spoken[1]].sum()),
        teacher_alone=float(shares[1][:-1][~spoken[0]].sum()),
        teacher_top_share=float(shares[1][:-1][teacher_top].sum()),
    )


def js_error(support: MergedSupport) -> float:
    """How much the JS divergence of the coarse distributions may be too small, nats."""
    merged = support.theta_tail + support.theta_alone + support.teacher_tail + support.teacher_alone
    return math.log(2.0) * min(1.0, merged / 2.0)


def q_error(support: MergedSupport, alpha: float, log_z: float, target_top_p: float | None) -> float:
    """Upper bound of the total variation between the q* that was drawn from and the exact one, at the same α.

    `log_z` is log Σ π_θ^(1-α)·π_t^α over what could be drawn. With a trust region (`target_top_p`) it is drawn from the
    teacher's k likeliest ids: where they hold that mass, nothing outside them belongs to q*; where they do not, all of
    them do, and what is missing is among the others.
    """
    covered = target_top_p is not None and support.teacher_top_share >= target_top_p
    if covered:
        missing_theta, missing_teacher = support.theta_tail, support.teacher_alone
    elif target_top_p is not None:
        missing_theta, missing_teacher = 1.0, 1.0 - support.teacher_top_share + support.teacher_alone
    else:
        missing_theta, missing_teacher = (
            support.theta_tail + support.theta_alone,
            support.teacher_tail + support.teacher_alone,
        )
    if alpha == 1.0:  # all ids that the teacher spoke of can be drawn
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
