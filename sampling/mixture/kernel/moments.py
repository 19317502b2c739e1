"""Sums over a tilted distribution: π_θ^(1−a)·π_t^a over the ids that live.

A tile holds chosen ids: float64, natural logarithms relative to each model's largest logit. A row's other ids are
summed in float32, in units of its logits (bfloat16 ones lose nothing by that), every slot with its own maximum; the
slots' sums are float64.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.order import LEAST_FINITE, load_pair

LN2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-1e15)  # of a float32 logit in a mean: its square is finite; what is lower weighs nothing
THETAS, TEACHERS, COMMON = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # whose zero takes an id away


@triton.jit
def tilt(log_theta, log_teacher, weight):
    """(1 − weight)·log_theta + weight·log_teacher, the ends exact also where the other one is −inf."""
    between = (1 - weight) * log_theta + weight * log_teacher
    return tl.where(weight == 0, log_theta, tl.where(weight == 1, log_teacher, between))


@triton.jit
def alive(log_theta, log_teacher, whose):
    """Ids bool that a distribution can draw."""
    in_theta, in_teacher = log_theta > float("-inf"), log_teacher > float("-inf")
    return (in_theta | (whose == TEACHERS)) & (in_teacher | (whose == THETAS))


@triton.jit
def four_sums(first, second, third, fourth):
    """The sums of four tiles, for which threads wait once."""
    firsts, lasts = tl.split(tl.sum(tl.join(tl.join(first, second), tl.join(third, fourth)), 0))
    first, second = tl.split(firsts)
    third, fourth = tl.split(lasts)
    return first, second, third, fourth


@triton.jit
def tile_moments(log_theta, log_teacher, live, weight):
    """log Σ, E[log_theta], E[log_teacher], E[d²], how many live, how many of them have only one finite logarithm."""
    scores = tl.where(live, tilt(log_theta, log_teacher, weight), float("-inf"))
    top = tl.maximum(tl.max(scores, 0), LEAST_FINITE)
    weights = tl.exp(scores - top)
    in_theta, in_teacher = log_theta > float("-inf"), log_teacher > float("-inf")
    one_sided = (weights > 0) & ((in_theta & in_teacher) == 0)
    gap = tl.where(in_theta & in_teacher & (weights > 0), log_teacher - log_theta, 0.0)
    total, sum_theta, sum_teacher, square = four_sums(
        weights,
        tl.where(in_theta & (weights > 0), weights * log_theta, 0.0),
        tl.where(in_teacher & (weights > 0), weights * log_teacher, 0.0),
        weights * gap * gap,
    )
    counts = tl.sum(live.to(tl.int32) + (one_sided.to(tl.int32) << 16), 0)  # a tile holds less than 2¹⁵ ids
    share = 1.0 / tl.where(total > 0, total, 1.0)
    return (
        tl.where(total > 0, top + tl.log(tl.where(total > 0, total, 1.0)), float("-inf")),
        sum_theta * share,
        sum_teacher * share,
        square * share,
        counts & 0xFFFF,
        counts >> 16,
    )


@triton.jit
def row_logs(
    theta, teacher, ids, end, num_ids, theta_top, teacher_top,
    listed_theta, listed_teacher, listed_sum, least_teacher, whose,
):  # fmt: skip
    """Both models' logits at ids, less their tops, with those bool that are of the support, not of the list."""
    theta_logits, teacher_logits = load_pair(theta, teacher, ids, end, num_ids)
    live = (teacher_logits >= least_teacher) & (theta_logits < listed_theta) & (teacher_logits < listed_teacher)
    live = live & (theta_logits + teacher_logits < listed_sum) & alive(theta_logits, teacher_logits, whose)
    return theta_logits - theta_top, teacher_logits - teacher_top, live


@triton.jit
def centre_of(theta_top, teacher_top, sum_top, weight):
    """About the largest score of a tilt, whole: what is left of a likely id's score then is small, so its rounding.

    0 where `row_tilt` subtracts none: at the ends as float32 has them.
    """
    lost, nearest = tl.maximum(sum_top - theta_top - teacher_top, -1e6), weight.to(tl.float32)
    return tl.floor(lost * tl.maximum(tl.minimum(nearest, 1 - nearest), 0.0))


@triton.jit
def halves(weight, inverse_temperature):
    """A float64 weight as a float32 one, with what that lacks: a term grows by its share times the gap of its logits.

    α in float32 alone moves E[d] by 3e-8·Var[d].
    """
    nearest = weight.to(tl.float32)
    return nearest, ((weight - nearest.to(tl.float64)) * inverse_temperature).to(tl.float32)


@triton.jit
def row_tilt(log_theta, log_teacher, weight, centre):
    """`tilt` less its centre in float32, rounded once."""
    between = tl.fma(tl.zeros_like(log_theta) + weight, log_teacher - log_theta, log_theta - centre)
    return tl.where(weight == 0, log_theta, tl.where(weight == 1, log_teacher, between))


@triton.jit
def row_scores(
    theta, teacher, ids, end, num_ids, theta_top, teacher_top, least_teacher, whose,
    weight, centre,
):  # fmt: skip
    """`row_tilt` of ids, −inf where the support lacks them."""
    nothing_listed = float("inf")
    log_theta, log_teacher, live = row_logs(
        theta, teacher, ids, end, num_ids, theta_top, teacher_top,
        nothing_listed, nothing_listed, nothing_listed, least_teacher, whose,
    )  # fmt: skip
    return tl.where(live, row_tilt(log_theta, log_teacher, weight, centre), float("-inf"))


@triton.jit
def grown(top, scores, scale):
    """What a slot's sums are multiplied by, what its new term weighs, its new maximum: one exponential, no overflow."""
    rise = scores - top
    shrink = tl.exp2(-tl.abs(rise) * scale)
    return tl.where(rise > 0, shrink, 1.0), tl.where(rise > 0, 1.0, shrink), tl.maximum(top, scores)


@triton.jit
def slots_sum(top, total, centre, inverse_temperature):
    """log Σ of slots (natural, −inf where there is nothing), with what each slot's sums are multiplied by for means."""
    highest = tl.max(top, 0)
    scaled = tl.exp((top.to(tl.float64) - highest.to(tl.float64)) * inverse_temperature)
    all_slots = tl.sum(total.to(tl.float64) * scaled, 0)
    some = tl.where(all_slots > 0, all_slots, 1.0)
    logarithm = (highest.to(tl.float64) + centre.to(tl.float64)) * inverse_temperature + tl.log(some)
    return tl.where(all_slots > 0, logarithm, float("-inf")), scaled * (inverse_temperature / some)


@triton.jit
def row_gap(log_theta, log_teacher):
    """The teacher's logits less theta's where both are finite, else 0; what is summed of it stays finite, too."""
    gap = tl.maximum(log_teacher, LOWEST) - tl.maximum(log_theta, LOWEST)
    return tl.where(alive(log_theta, log_teacher, COMMON), gap, 0.0)


@triton.jit
def row_moments(
    theta, teacher, num_ids, theta_top, teacher_top, sum_top, scale, inverse_temperature,
    listed_theta, listed_teacher, listed_sum, least_teacher, whose, weight, BLOCK: tl.constexpr,
):  # fmt: skip
    """`tile_moments` of a row's ids that are not of the list: one pass."""
    slots = tl.arange(0, BLOCK)
    centre = centre_of(theta_top, teacher_top, sum_top, weight)
    weight, left = halves(weight, inverse_temperature)
    top = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    sum_theta = tl.zeros([BLOCK], tl.float32)
    sum_teacher = tl.zeros([BLOCK], tl.float32)
    square = tl.zeros([BLOCK], tl.float32)
    num_live = tl.zeros([BLOCK], tl.int32)
    num_lame = tl.zeros([BLOCK], tl.int32)
    for start in range(0, num_ids, BLOCK):
        log_theta, log_teacher, live = row_logs(
            theta, teacher, start + slots, start + BLOCK, num_ids, theta_top, teacher_top,
            listed_theta, listed_teacher, listed_sum, least_teacher, whose,
        )  # fmt: skip
        scores = tl.where(live, row_tilt(log_theta, log_teacher, weight, centre), float("-inf"))
        kept, new, top = grown(top, scores, scale)
        in_theta, in_teacher = log_theta > float("-inf"), log_teacher > float("-inf")
        one_sided = (new > 0) & ((in_theta & in_teacher) == 0)
        low_theta, low_teacher = tl.maximum(log_theta, LOWEST), tl.maximum(log_teacher, LOWEST)
        gap = row_gap(log_theta, log_teacher)
        new += new * (left * gap)
        total = total * kept + new
        sum_theta = sum_theta * kept + tl.where(in_theta & (new > 0), new * low_theta, 0.0)
        sum_teacher = sum_teacher * kept + tl.where(in_teacher & (new > 0), new * low_teacher, 0.0)
        square = square * kept + new * gap * gap
        num_live += live.to(tl.int32)
        num_lame += one_sided.to(tl.int32)
    logarithm, share = slots_sum(top, total, centre, inverse_temperature)
    return (
        logarithm,
        tl.sum(sum_theta.to(tl.float64) * share, 0),
        tl.sum(sum_teacher.to(tl.float64) * share, 0),
        tl.sum(square.to(tl.float64) * share, 0) * inverse_temperature,
        tl.sum(num_live, 0),
        tl.sum(num_lame, 0),
    )


@triton.jit
def row_pair(
    theta, teacher, num_ids, theta_top, teacher_top, scale, inverse_temperature,
    listed_theta, listed_teacher, listed_sum, least_teacher, whose, first, second, BLOCK: tl.constexpr,
):  # fmt: skip
    """log Σ with E[d] of two tilts, over a row's ids that are not of the list: one pass."""
    slots = tl.arange(0, BLOCK)
    first, first_left = halves(first, inverse_temperature)
    second, second_left = halves(second, inverse_temperature)
    centre = theta_top * 0.0
    first_top = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    second_top = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    first_total = tl.zeros([BLOCK], tl.float32)
    second_total = tl.zeros([BLOCK], tl.float32)
    first_gap = tl.zeros([BLOCK], tl.float32)
    second_gap = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_ids, BLOCK):
        log_theta, log_teacher, live = row_logs(
            theta, teacher, start + slots, start + BLOCK, num_ids, theta_top, teacher_top,
            listed_theta, listed_teacher, listed_sum, least_teacher, whose,
        )  # fmt: skip
        gap = row_gap(log_theta, log_teacher)
        scores = tl.where(live, row_tilt(log_theta, log_teacher, first, centre), float("-inf"))
        kept, new, first_top = grown(first_top, scores, scale)
        new += new * (first_left * gap)
        first_total = first_total * kept + new
        first_gap = first_gap * kept + new * gap
        scores = tl.where(live, row_tilt(log_theta, log_teacher, second, centre), float("-inf"))
        kept, new, second_top = grown(second_top, scores, scale)
        new += new * (second_left * gap)
        second_total = second_total * kept + new
        second_gap = second_gap * kept + new * gap
    first_log, share = slots_sum(first_top, first_total, centre, inverse_temperature)
    first_mean = tl.sum(first_gap.to(tl.float64) * share, 0)
    second_log, share = slots_sum(second_top, second_total, centre, inverse_temperature)
    second_mean = tl.sum(second_gap.to(tl.float64) * share, 0)
    return first_log, first_mean, second_log, second_mean


@triton.jit
def shares(first_log, second_log):
    """The logarithm of two sums' sum, with the share of each."""
    top = tl.maximum(tl.maximum(first_log, second_log), LEAST_FINITE)
    first, second = tl.exp(first_log - top), tl.exp(second_log - top)
    total = first + second
    share = 1.0 / tl.where(total > 0, total, 1.0)
    logarithm = top + tl.log(tl.where(total > 0, total, 1.0))
    return tl.where(total > 0, logarithm, float("-inf")), first * share, second * share
