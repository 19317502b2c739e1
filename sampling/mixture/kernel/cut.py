"""What top-k, then top-p, then min-p leave of q*: `sampling.mixture.mixture` cuts it so, each time by a least score.

Ids as likely as the last one taken stay, so a cut is a threshold, and all three are the largest of three. A tile's
scores are compared as float32 below its largest one, a row's as `row_tilt` gives them.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.moments import (
    LOWEST,
    centre_of,
    grown,
    halves,
    row_gap,
    row_logs,
    row_scores,
    row_tilt,
    slots_sum,
)
from sampling.mixture.kernel.order import LEAST_FINITE, LEAST_KEY, risen_key, sortable, tile_threshold


@triton.jit
def tile_cut(scores, most, mass, log_share):
    """Scores (float64, natural) of the ids that stay, −inf for the others.

    `most`: top-k, any larger number for none; `mass`: top-p; `log_share`: log min-p, −inf for none.
    """
    below = scores - tl.maximum(tl.max(scores, 0), LEAST_FINITE)
    keys = sortable(below.to(tl.float32))
    live = scores > float("-inf")
    live = live & (keys >= tile_threshold(keys, live.to(tl.int32), most, 0))
    if mass < 1:
        weights = tl.where(live, tl.exp(below), 0.0)
        live = live & (keys >= tile_threshold(keys, weights, mass * tl.sum(weights, 0), 0))
    return tl.where(live & (below >= log_share), scores, float("-inf"))


@triton.jit
def tile_sums(scores):
    """log Σ e^score, E[score], how many are finite."""
    top = tl.maximum(tl.max(scores, 0), LEAST_FINITE)
    live = scores > float("-inf")
    weights = tl.exp(scores - top)
    total = tl.sum(weights, 0)
    some = tl.where(total > 0, total, 1.0)
    mean = tl.sum(tl.where(live, weights * scores, 0.0), 0) / some
    return tl.where(total > 0, top + tl.log(some), float("-inf")), mean, tl.sum(live.to(tl.int32), 0)


@triton.jit
def row_score_threshold(
    theta, teacher, num_ids, theta_top, teacher_top, scale, least_teacher, whose,
    weight, centre, level, target, COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`order.row_threshold` of scores, which weigh 1 each or e^(score − level)."""
    slots = tl.arange(0, BLOCK)
    key = tl.full([], LEAST_KEY, tl.int32)
    for place in range(16):
        step = 1 << (30 - 2 * place)
        first = tl.zeros([BLOCK], tl.float32)
        second = tl.zeros([BLOCK], tl.float32)
        third = tl.zeros([BLOCK], tl.float32)
        for start in range(0, num_ids, BLOCK):
            scores = row_scores(
                theta, teacher, start + slots, start + BLOCK, num_ids, theta_top, teacher_top,
                least_teacher, whose, weight, centre,
            )  # fmt: skip
            keys = sortable(scores)
            if COUNT:
                weights = tl.where(scores > float("-inf"), 1.0, 0.0)
            else:
                weights = tl.exp2((scores - level) * scale)
            first += tl.where(keys >= key + step, weights, 0.0)
            second += tl.where(keys >= key + 2 * step, weights, 0.0)
            third += tl.where(keys >= key + 3 * step, weights, 0.0)
        key = risen_key(key, step, first, second, third, target)
    return key


@triton.jit
def row_cut(
    theta, teacher, num_ids, theta_top, teacher_top, sum_top, scale, inverse_temperature,
    least_teacher, whose, weight, log_total, most, mass, log_share, BLOCK: tl.constexpr,
):  # fmt: skip
    """The least key of a row's scores that stay: a pass, and 16 more each for top-k and top-p."""
    slots = tl.arange(0, BLOCK)
    centre = centre_of(theta_top, teacher_top, sum_top, weight)
    weight = weight.to(tl.float32)
    level = (log_total / inverse_temperature - centre.to(tl.float64)).to(tl.float32)
    key = tl.full([], LEAST_KEY, tl.int32)
    if most < num_ids:
        key = row_score_threshold(
            theta, teacher, num_ids, theta_top, teacher_top, scale, least_teacher,
            whose, weight, centre, level, most, True, BLOCK,
        )  # fmt: skip
    highest = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    kept = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_ids, BLOCK):
        scores = row_scores(
            theta, teacher, start + slots, start + BLOCK, num_ids, theta_top, teacher_top,
            least_teacher, whose, weight, centre,
        )  # fmt: skip
        highest = tl.maximum(highest, scores)
        kept += tl.where(sortable(scores) >= key, tl.exp2((scores - level) * scale), 0.0)
    if mass < 1:
        target = mass * tl.sum(kept.to(tl.float64), 0)
        by_mass = row_score_threshold(
            theta, teacher, num_ids, theta_top, teacher_top, scale, least_teacher,
            whose, weight, centre, level, target, False, BLOCK,
        )  # fmt: skip
        key = tl.maximum(key, by_mass)
    return tl.maximum(
        key, sortable((tl.max(highest, 0).to(tl.float64) + log_share / inverse_temperature).to(tl.float32))
    )


@triton.jit
def row_keys(theta_logits, teacher_logits, theta_top, teacher_top, sum_top, weight):
    """The keys by which `row_cut` tells listed ids, too."""
    centre = centre_of(theta_top, teacher_top, sum_top, weight)
    return sortable(row_tilt(theta_logits - theta_top, teacher_logits - teacher_top, weight.to(tl.float32), centre))


@triton.jit
def row_sums(
    theta, teacher, num_ids, theta_top, teacher_top, sum_top, scale, inverse_temperature,
    listed_theta, listed_teacher, listed_sum, least_teacher, whose, weight, least_key, BLOCK: tl.constexpr,
):  # fmt: skip
    """`tile_sums` of a row's ids that stay and are not of the list: one pass."""
    slots = tl.arange(0, BLOCK)
    centre = centre_of(theta_top, teacher_top, sum_top, weight)
    weight, left = halves(weight, inverse_temperature)
    top = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    sum_scores = tl.zeros([BLOCK], tl.float32)
    num = tl.zeros([BLOCK], tl.int32)
    for start in range(0, num_ids, BLOCK):
        log_theta, log_teacher, live = row_logs(
            theta, teacher, start + slots, start + BLOCK, num_ids, theta_top, teacher_top,
            listed_theta, listed_teacher, listed_sum, least_teacher, whose,
        )  # fmt: skip
        scores = tl.where(live, row_tilt(log_theta, log_teacher, weight, centre), float("-inf"))
        live = live & (sortable(scores) >= least_key) & (scores > float("-inf"))
        kept, new, top = grown(top, tl.where(live, scores, float("-inf")), scale)
        new += new * (left * row_gap(log_theta, log_teacher))
        total = total * kept + new
        sum_scores = sum_scores * kept + tl.where(live, new * tl.maximum(scores, LOWEST), 0.0)
        num += live.to(tl.int32)
    logarithm, share = slots_sum(top, total, centre, inverse_temperature)
    mean = tl.sum(sum_scores.to(tl.float64) * share, 0) + centre.to(tl.float64) * inverse_temperature
    return logarithm, tl.where(logarithm > float("-inf"), mean, 0.0), tl.sum(num, 0)
