"""Top-k, then top-p, then min-p of q*, not the trust region: each is a threshold on the scores.

Ids as likely as the last one taken stay, so the three cuts are the largest of three thresholds. A tile's scores are
compared as float32 below its largest one, a row's as `row_tilt` computes them.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.moments import (
    LOWEST,
    combine_slots,
    load_rest,
    online_update,
    row_gap,
    row_scores,
    row_tilt,
    score_offset,
    split_weight,
)
from sampling.mixture.kernel.row import LEAST_FINITE
from sampling.mixture.kernel.threshold import MIN_KEY, advance_key, sortable, tile_threshold


@triton.jit
def tile_cut(scores, settings):
    """Scores (float64, natural) of the ids that stay, −inf for the others."""
    below = scores - tl.maximum(tl.max(scores, 0), LEAST_FINITE)
    keys = sortable(below.to(tl.float32))
    mask = scores > float("-inf")
    mask = mask & (keys >= tile_threshold(keys, mask.to(tl.int32), settings.top_k, 0))
    if settings.top_p < 1:
        weights = tl.where(mask, tl.exp(below), 0.0)
        mask = mask & (keys >= tile_threshold(keys, weights, settings.top_p * tl.sum(weights, 0), 0))
    return tl.where(mask & (below >= settings.log_min_p), scores, float("-inf"))


@triton.jit
def tile_sums(scores):
    """log Σ e^score, E[score], the number of finite scores."""
    tile_max = tl.maximum(tl.max(scores, 0), LEAST_FINITE)
    mask = scores > float("-inf")
    weights = tl.exp(scores - tile_max)
    total = tl.sum(weights, 0)
    some = tl.where(total > 0, total, 1.0)
    mean = tl.sum(tl.where(mask, weights * scores, 0.0), 0) / some
    return tl.where(total > 0, tile_max + tl.log(some), float("-inf")), mean, tl.sum(mask.to(tl.int32), 0)


@triton.jit
def row_score_threshold(
    row, region_min, support_of, weight, offset, level, target, COUNT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """`threshold.row_threshold` of scores, which weigh 1 each (COUNT) or e^(score − level)."""
    slots = tl.arange(0, BLOCK)
    key = tl.full([], MIN_KEY, tl.int32)
    for turn in range(16):
        step = 1 << (30 - 2 * turn)
        zeros = tl.zeros([BLOCK], tl.float32)
        first, second, third = zeros, zeros, zeros
        for start in range(0, row.num_ids, BLOCK):
            scores = row_scores(row, start + slots, start + BLOCK, region_min, support_of, weight, offset)
            keys = sortable(scores)
            if COUNT:
                weights = tl.where(scores > float("-inf"), 1.0, 0.0)
            else:
                weights = tl.exp2((scores - level) * row.scale)
            first += tl.where(keys >= key + step, weights, 0.0)
            second += tl.where(keys >= key + 2 * step, weights, 0.0)
            third += tl.where(keys >= key + 3 * step, weights, 0.0)
        key = advance_key(key, step, first, second, third, target)
    return key


@triton.jit
def row_cut(row, region_min, support_of, weight, log_sum, settings, BLOCK: tl.constexpr):
    """The least key of a row's scores that stay: a pass, and 16 more each for top-k and top-p."""
    slots = tl.arange(0, BLOCK)
    offset = score_offset(row, weight)
    weight = weight.to(tl.float32)
    level = (log_sum / row.inverse_temperature - offset.to(tl.float64)).to(tl.float32)
    key = tl.full([], MIN_KEY, tl.int32)
    if settings.top_k < row.num_ids:
        key = row_score_threshold(row, region_min, support_of, weight, offset, level, settings.top_k, True, BLOCK)
    slot_max = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    kept = tl.zeros([BLOCK], tl.float32)
    for start in range(0, row.num_ids, BLOCK):
        scores = row_scores(row, start + slots, start + BLOCK, region_min, support_of, weight, offset)
        slot_max = tl.maximum(slot_max, scores)
        kept += tl.where(sortable(scores) >= key, tl.exp2((scores - level) * row.scale), 0.0)
    if settings.top_p < 1:
        target = settings.top_p * tl.sum(kept.to(tl.float64), 0)
        top_p_key = row_score_threshold(row, region_min, support_of, weight, offset, level, target, False, BLOCK)
        key = tl.maximum(key, top_p_key)
    min_p_score = tl.max(slot_max, 0).to(tl.float64) + settings.log_min_p / row.inverse_temperature
    return tl.maximum(key, sortable(min_p_score.to(tl.float32)))


@triton.jit
def candidate_keys(row, theta_logits, teacher_logits, weight):
    """Candidates' keys, computed as `row_cut` computes a row's."""
    offset = score_offset(row, weight)
    theta_logits, teacher_logits = theta_logits - row.theta_max, teacher_logits - row.teacher_max
    return sortable(row_tilt(theta_logits, teacher_logits, weight.to(tl.float32), offset))


@triton.jit
def row_sums(row, cutoffs, region_min, support_of, weight, cut_key, BLOCK: tl.constexpr):
    """`tile_sums` of a row's ids that stay and are no candidates: one pass."""
    slots = tl.arange(0, BLOCK)
    offset = score_offset(row, weight)
    weight, remainder = split_weight(weight, row.inverse_temperature)
    slot_max = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    total, sum_scores = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    size = tl.zeros([BLOCK], tl.int32)
    for start in range(0, row.num_ids, BLOCK):
        log_theta, log_teacher, mask = load_rest(row, start + slots, start + BLOCK, cutoffs, region_min, support_of)
        scores = tl.where(mask, row_tilt(log_theta, log_teacher, weight, offset), float("-inf"))
        mask = mask & (sortable(scores) >= cut_key) & (scores > float("-inf"))
        rescale, term, slot_max = online_update(slot_max, tl.where(mask, scores, float("-inf")), row.scale)
        term += term * (remainder * row_gap(log_theta, log_teacher))
        total = total * rescale + term
        sum_scores = sum_scores * rescale + tl.where(mask, term * tl.maximum(scores, LOWEST), 0.0)
        size += mask.to(tl.int32)
    log_sum, factors = combine_slots(slot_max, total, offset, row.inverse_temperature)
    mean = tl.sum(sum_scores.to(tl.float64) * factors, 0) + offset.to(tl.float64) * row.inverse_temperature
    return log_sum, tl.where(log_sum > float("-inf"), mean, 0.0), tl.sum(size, 0)
