"""Sums over a tilted distribution π_θ^(1−w)·π_t^w, restricted to a row's support.

Candidates (a tile) are summed in float64, in natural logarithms relative to each model's largest logit. A row's other
ids are summed in float32, in units of its logits (bfloat16 ones lose nothing by that), every slot with its own maximum;
the slots' sums are combined in float64.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.row import LEAST_FINITE, Cutoffs, load_pair

LOWEST = tl.constexpr(-1e15)  # of a float32 logit in a mean: its square is finite; what is lower weighs nothing
# Whose support: at α = 0 and 1 one model's zeros do not count, in between both models' do
THETA, TEACHER, COMMON = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def tilt(log_theta, log_teacher, weight):
    """(1 − weight)·log_theta + weight·log_teacher, exact at both ends also where the other one is −inf."""
    between = (1 - weight) * log_theta + weight * log_teacher
    return tl.where(weight == 0, log_theta, tl.where(weight == 1, log_teacher, between))


@triton.jit
def in_support(log_theta, log_teacher, support_of):
    """Ids bool that have mass in theta's distribution, the teacher's, or both (COMMON)."""
    in_theta, in_teacher = log_theta > float("-inf"), log_teacher > float("-inf")
    return (in_theta | (support_of == TEACHER)) & (in_teacher | (support_of == THETA))


@triton.jit
def four_sums(first, second, third, fourth):
    """The sums of four tiles by one reduction, so that threads wait once."""
    firsts, lasts = tl.split(tl.sum(tl.join(tl.join(first, second), tl.join(third, fourth)), 0))
    first, second = tl.split(firsts)
    third, fourth = tl.split(lasts)
    return first, second, third, fourth


@triton.jit
def tile_moments(log_theta, log_teacher, mask, weight):
    """log Σ, E[log_theta], E[log_teacher], E[d²], the number of ids, of those with only one finite logarithm."""
    scores = tl.where(mask, tilt(log_theta, log_teacher, weight), float("-inf"))
    tile_max = tl.maximum(tl.max(scores, 0), LEAST_FINITE)
    weights = tl.exp(scores - tile_max)
    in_theta, in_teacher = log_theta > float("-inf"), log_teacher > float("-inf")
    one_sided = (weights > 0) & ((in_theta & in_teacher) == 0)
    gap = tl.where(in_theta & in_teacher & (weights > 0), log_teacher - log_theta, 0.0)
    total, sum_theta, sum_teacher, square = four_sums(
        weights,
        tl.where(in_theta & (weights > 0), weights * log_theta, 0.0),
        tl.where(in_teacher & (weights > 0), weights * log_teacher, 0.0),
        weights * gap * gap,
    )
    counts = tl.sum(mask.to(tl.int32) + (one_sided.to(tl.int32) << 16), 0)  # a tile holds less than 2¹⁵ ids
    norm = 1.0 / tl.where(total > 0, total, 1.0)
    return (
        tl.where(total > 0, tile_max + tl.log(tl.where(total > 0, total, 1.0)), float("-inf")),
        sum_theta * norm,
        sum_teacher * norm,
        square * norm,
        counts & 0xFFFF,
        counts >> 16,
    )


@triton.jit
def load_rest(row, ids, end, cutoffs, region_min, support_of):
    """Both models' logits of ids less their maxima, with a mask bool of the support's ids that are no candidates."""
    theta_logits, teacher_logits = load_pair(row.theta, row.teacher, ids, end, row.num_ids)
    mask = (teacher_logits >= region_min) & (theta_logits < cutoffs.theta) & (teacher_logits < cutoffs.teacher)
    mask = mask & (theta_logits + teacher_logits < cutoffs.both) & in_support(theta_logits, teacher_logits, support_of)
    return theta_logits - row.theta_max, teacher_logits - row.teacher_max, mask


@triton.jit
def score_offset(row, weight):
    """About the largest score of a tilt, a whole number: less this, a likely id's score is small, so its rounding.

    0 where `row_tilt` subtracts none: at the ends as float32 has them.
    """
    lost, rounded = tl.maximum(row.sum_max - row.theta_max - row.teacher_max, -1e6), weight.to(tl.float32)
    return tl.floor(lost * tl.maximum(tl.minimum(rounded, 1 - rounded), 0.0))


@triton.jit
def split_weight(weight, inverse_temperature):
    """A float64 weight as a float32 one with its remainder, by which a term grows times the gap of its logits.

    α in float32 alone moves E[d] by 3e-8·Var[d].
    """
    rounded = weight.to(tl.float32)
    return rounded, ((weight - rounded.to(tl.float64)) * inverse_temperature).to(tl.float32)


@triton.jit
def row_tilt(log_theta, log_teacher, weight, offset):
    """`tilt` less its offset in float32, rounded once."""
    between = tl.fma(tl.zeros_like(log_theta) + weight, log_teacher - log_theta, log_theta - offset)
    return tl.where(weight == 0, log_theta, tl.where(weight == 1, log_teacher, between))


@triton.jit
def row_scores(row, ids, end, region_min, support_of, weight, offset):
    """`row_tilt` of ids, −inf outside the support."""
    none = float("inf")
    log_theta, log_teacher, mask = load_rest(row, ids, end, Cutoffs(none, none, none), region_min, support_of)
    return tl.where(mask, row_tilt(log_theta, log_teacher, weight, offset), float("-inf"))


@triton.jit
def online_update(slot_max, scores, scale):
    """The factor that rescales a slot's sums, the weight of its new term, its new maximum (online softmax).

    One exponential, no overflow.
    """
    rise = scores - slot_max
    shrink = tl.exp2(-tl.abs(rise) * scale)
    return tl.where(rise > 0, shrink, 1.0), tl.where(rise > 0, 1.0, shrink), tl.maximum(slot_max, scores)


@triton.jit
def combine_slots(slot_max, total, offset, inverse_temperature):
    """log Σ over all slots (natural, −inf where empty), with the factors that make the slots' sums into means."""
    row_max = tl.max(slot_max, 0)
    scaled = tl.exp((slot_max.to(tl.float64) - row_max.to(tl.float64)) * inverse_temperature)
    all_slots = tl.sum(total.to(tl.float64) * scaled, 0)
    some = tl.where(all_slots > 0, all_slots, 1.0)
    log_sum = (row_max.to(tl.float64) + offset.to(tl.float64)) * inverse_temperature + tl.log(some)
    return tl.where(all_slots > 0, log_sum, float("-inf")), scaled * (inverse_temperature / some)


@triton.jit
def row_gap(log_theta, log_teacher):
    """The teacher's logits less theta's, 0 where one is −inf; clamped so that sums of its square stay finite."""
    gap = tl.maximum(log_teacher, LOWEST) - tl.maximum(log_theta, LOWEST)
    return tl.where(in_support(log_theta, log_teacher, COMMON), gap, 0.0)


@triton.jit
def row_moments(row, cutoffs, region_min, support_of, weight, BLOCK: tl.constexpr):
    """`tile_moments` of a row's ids that are no candidates: one pass."""
    slots = tl.arange(0, BLOCK)
    offset = score_offset(row, weight)
    weight, remainder = split_weight(weight, row.inverse_temperature)
    slot_max = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    zeros = tl.zeros([BLOCK], tl.float32)
    total, sum_theta, sum_teacher, square = zeros, zeros, zeros, zeros
    size, num_one_sided = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    for start in range(0, row.num_ids, BLOCK):
        log_theta, log_teacher, mask = load_rest(row, start + slots, start + BLOCK, cutoffs, region_min, support_of)
        scores = tl.where(mask, row_tilt(log_theta, log_teacher, weight, offset), float("-inf"))
        rescale, term, slot_max = online_update(slot_max, scores, row.scale)
        in_theta, in_teacher = log_theta > float("-inf"), log_teacher > float("-inf")
        one_sided = (term > 0) & ((in_theta & in_teacher) == 0)
        low_theta, low_teacher = tl.maximum(log_theta, LOWEST), tl.maximum(log_teacher, LOWEST)
        gap = row_gap(log_theta, log_teacher)
        term += term * (remainder * gap)
        total = total * rescale + term
        sum_theta = sum_theta * rescale + tl.where(in_theta & (term > 0), term * low_theta, 0.0)
        sum_teacher = sum_teacher * rescale + tl.where(in_teacher & (term > 0), term * low_teacher, 0.0)
        square = square * rescale + term * gap * gap
        size += mask.to(tl.int32)
        num_one_sided += one_sided.to(tl.int32)
    log_sum, factors = combine_slots(slot_max, total, offset, row.inverse_temperature)
    return (
        log_sum,
        tl.sum(sum_theta.to(tl.float64) * factors, 0),
        tl.sum(sum_teacher.to(tl.float64) * factors, 0),
        tl.sum(square.to(tl.float64) * factors, 0) * row.inverse_temperature,
        tl.sum(size, 0),
        tl.sum(num_one_sided, 0),
    )


@triton.jit
def row_two_tilts(row, cutoffs, region_min, support_of, first, second, BLOCK: tl.constexpr):
    """log Σ with E[d] of two tilts, over a row's ids that are no candidates: one pass."""
    slots = tl.arange(0, BLOCK)
    first, first_remainder = split_weight(first, row.inverse_temperature)
    second, second_remainder = split_weight(second, row.inverse_temperature)
    offset = row.theta_max * 0.0
    first_max, second_max = tl.full([BLOCK], LEAST_FINITE, tl.float32), tl.full([BLOCK], LEAST_FINITE, tl.float32)
    zeros = tl.zeros([BLOCK], tl.float32)
    first_total, second_total, first_gap, second_gap = zeros, zeros, zeros, zeros
    for start in range(0, row.num_ids, BLOCK):
        log_theta, log_teacher, mask = load_rest(row, start + slots, start + BLOCK, cutoffs, region_min, support_of)
        gap = row_gap(log_theta, log_teacher)
        scores = tl.where(mask, row_tilt(log_theta, log_teacher, first, offset), float("-inf"))
        rescale, term, first_max = online_update(first_max, scores, row.scale)
        term += term * (first_remainder * gap)
        first_total = first_total * rescale + term
        first_gap = first_gap * rescale + term * gap
        scores = tl.where(mask, row_tilt(log_theta, log_teacher, second, offset), float("-inf"))
        rescale, term, second_max = online_update(second_max, scores, row.scale)
        term += term * (second_remainder * gap)
        second_total = second_total * rescale + term
        second_gap = second_gap * rescale + term * gap
    first_log, factors = combine_slots(first_max, first_total, offset, row.inverse_temperature)
    first_mean = tl.sum(first_gap.to(tl.float64) * factors, 0)
    second_log, factors = combine_slots(second_max, second_total, offset, row.inverse_temperature)
    second_mean = tl.sum(second_gap.to(tl.float64) * factors, 0)
    return first_log, first_mean, second_log, second_mean


@triton.jit
def merge(first_log, second_log):
    """log(e^first + e^second), with the share of each in the sum."""
    larger = tl.maximum(tl.maximum(first_log, second_log), LEAST_FINITE)
    first, second = tl.exp(first_log - larger), tl.exp(second_log - larger)
    total = first + second
    norm = 1.0 / tl.where(total > 0, total, 1.0)
    log_sum = larger + tl.log(tl.where(total > 0, total, 1.0))
    return tl.where(total > 0, log_sum, float("-inf")), first * norm, second * norm
