"""The two passes over a row that every setting needs."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.kernels.order import LEAST_FINITE, LEAST_KEY, load_logits, row_threshold, sortable, tile_threshold


@triton.jit
def risen(top, total, logits, scale):
    """A slot's maximum and Σ e^(logit − maximum) with one logit more: one exponential, no overflow."""
    rise = logits - top
    shrink = tl.exp2(-tl.abs(rise) * scale)
    return tl.maximum(top, logits), tl.where(rise > 0, total * shrink + 1.0, total + shrink)


@triton.jit
def slots_of(theta, teacher, num_ids, theta_loadable, teacher_loadable, scale, BLOCK: tl.constexpr):
    """Of each of BLOCK slots (ids equal modulo BLOCK): theta's largest logit with Σ e^(logit − largest), the teacher's,
    the largest sum of the two models' logits, the teacher's least logit.

    NaN or +inf in a row make a sum NaN or a maximum +inf; a row of −inf has sums of 0.
    """
    slots = tl.arange(0, BLOCK)
    theta_top = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    teacher_top = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    sum_top = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    theta_total = tl.zeros([BLOCK], tl.float32)
    teacher_total = tl.zeros([BLOCK], tl.float32)
    least = tl.full([BLOCK], float("inf"), tl.float32)
    for start in range(0, num_ids, BLOCK):
        theta_logits = load_logits(theta, start + slots, num_ids, theta_loadable)
        teacher_logits = load_logits(teacher, start + slots, num_ids, teacher_loadable)
        theta_top, theta_total = risen(theta_top, theta_total, theta_logits, scale)
        teacher_top, teacher_total = risen(teacher_top, teacher_total, teacher_logits, scale)
        sum_top = tl.maximum(sum_top, theta_logits + teacher_logits)
        least = tl.minimum(least, tl.where(start + slots < num_ids, teacher_logits, float("inf")))
    return theta_top, theta_total, teacher_top, teacher_total, sum_top, least


@triton.jit
def compare(
    theta, teacher, num_ids, theta_loadable, teacher_loadable, theta_top, teacher_top, scale,
    theta_log2, teacher_log2,  # float32: log2 of the sums relative to the tops
    listed_theta, listed_teacher, listed_sum,  # ids that reach one of these are listed
    places, LIST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """JS (nats), theta's mass off the list, the teacher's, how many ids are common, how many are on the list.

    Writes the first LIST ids of the list to `places`, ascending.
    """
    slots = tl.arange(0, BLOCK)
    js = tl.zeros([BLOCK], tl.float32)
    theta_rest = tl.zeros([BLOCK], tl.float32)
    teacher_rest = tl.zeros([BLOCK], tl.float32)
    common = tl.zeros([BLOCK], tl.int32)
    num_listed = tl.full([], 0, tl.int32)
    for start in range(0, num_ids, BLOCK):
        theta_logits = load_logits(theta, start + slots, num_ids, theta_loadable)
        teacher_logits = load_logits(teacher, start + slots, num_ids, teacher_loadable)
        log_theta = (theta_logits - theta_top) * scale - theta_log2
        log_teacher = (teacher_logits - teacher_top) * scale - teacher_log2
        p, q = tl.exp2(log_theta), tl.exp2(log_teacher)
        middle = tl.log2(p + q) - 1.0
        js += tl.where(p > 0, p * (log_theta - middle), 0.0) + tl.where(q > 0, q * (log_teacher - middle), 0.0)
        common += ((theta_logits > float("-inf")) & (teacher_logits > float("-inf"))).to(tl.int32)
        listed = (theta_logits >= listed_theta) | (teacher_logits >= listed_teacher)
        listed = listed | (theta_logits + teacher_logits >= listed_sum)
        theta_rest += tl.where(listed, 0.0, p)
        teacher_rest += tl.where(listed, 0.0, q)
        hits = tl.sum(listed.to(tl.int32), 0)
        if hits > 0:
            at = num_listed + tl.cumsum(listed.to(tl.int32), 0) - 1
            tl.store(places + at, start + slots, mask=listed & (at < LIST))
        num_listed += hits
    return (
        tl.sum(js.to(tl.float64), 0) * 0.34657359027997264,  # ln 2 / 2: two halves, binary logarithms
        tl.sum(theta_rest.to(tl.float64), 0),
        tl.sum(teacher_rest.to(tl.float64), 0),
        tl.sum(common, 0),
        num_listed,
    )


@triton.jit
def ranked(keys, least, left, LOW_BITS: tl.constexpr):
    """Keys bool above a threshold or, lowest ids first, among the `left` that equal it; how many are still left."""
    above = (keys - (1 << LOW_BITS) >= least) | (least == LEAST_KEY)
    equal = (keys >= least) & (above == 0)
    taken = above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= left))
    return taken, left - tl.sum(equal.to(tl.int32), 0)


@triton.jit
def likeliest(keys, count, LOW_BITS: tl.constexpr):
    """Places bool of the `count` largest keys of a tile, of equals the first ones."""
    least = tile_threshold(keys, tl.full(keys.shape, 1, tl.int32), count, LOW_BITS)
    above = (keys - (1 << LOW_BITS) >= least) & (keys >= least)
    taken, _ = ranked(keys, least, count - tl.sum(above.to(tl.int32), 0), LOW_BITS)
    return taken


@triton.jit
def tile_overlap(theta_keys, teacher_keys, theta_probs, teacher_probs, top_k, LOW_BITS: tl.constexpr):
    """Mass float64 with count of the ids that are in both top-k sets, of equals the lowest ids."""
    both = likeliest(theta_keys, top_k, LOW_BITS) & likeliest(teacher_keys, top_k, LOW_BITS)
    both = both & (theta_probs > 0) & (teacher_probs > 0)
    theta_mass = tl.sum(tl.where(both, theta_probs, 0.0), 0)
    teacher_mass = tl.sum(tl.where(both, teacher_probs, 0.0), 0)
    return tl.minimum(theta_mass, teacher_mass), tl.sum(both.to(tl.int32), 0)


@triton.jit
def num_above(row, num_ids, loadable, least, LOW_BITS: tl.constexpr, BLOCK: tl.constexpr):
    """How many finite logits are above the threshold's equals."""
    slots = tl.arange(0, BLOCK)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, num_ids, BLOCK):
        logits = load_logits(row, start + slots, num_ids, loadable)
        count += ((sortable(logits) - (1 << LOW_BITS) >= least) & (logits > float("-inf"))).to(tl.int32)
    return tl.sum(count, 0)


@triton.jit
def row_overlap(
    theta, teacher, num_ids, theta_loadable, teacher_loadable, theta_top, teacher_top, scale,
    theta_log2, teacher_log2, top_k, LOW_BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`tile_overlap` of a whole row. Some 40 passes: for rows in which thousands of ids equal the k-th one."""
    slots = tl.arange(0, BLOCK)
    theta_least = row_threshold(theta, num_ids, theta_loadable, 0.0, 1.0, 0.0, top_k, True, LOW_BITS, BLOCK)
    teacher_least = row_threshold(teacher, num_ids, teacher_loadable, 0.0, 1.0, 0.0, top_k, True, LOW_BITS, BLOCK)
    theta_left = top_k - num_above(theta, num_ids, theta_loadable, theta_least, LOW_BITS, BLOCK)
    teacher_left = top_k - num_above(teacher, num_ids, teacher_loadable, teacher_least, LOW_BITS, BLOCK)
    theta_mass = tl.zeros([BLOCK], tl.float32)
    teacher_mass = tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, num_ids, BLOCK):
        theta_logits = load_logits(theta, start + slots, num_ids, theta_loadable)
        teacher_logits = load_logits(teacher, start + slots, num_ids, teacher_loadable)
        in_theta, theta_left = ranked(sortable(theta_logits), theta_least, theta_left, LOW_BITS)
        in_teacher, teacher_left = ranked(sortable(teacher_logits), teacher_least, teacher_left, LOW_BITS)
        p = tl.exp2((theta_logits - theta_top) * scale - theta_log2)
        q = tl.exp2((teacher_logits - teacher_top) * scale - teacher_log2)
        both = in_theta & in_teacher & (p > 0) & (q > 0)
        theta_mass += tl.where(both, p, 0.0)
        teacher_mass += tl.where(both, q, 0.0)
        count += both.to(tl.int32)
    masses = tl.minimum(tl.sum(theta_mass.to(tl.float64), 0), tl.sum(teacher_mass.to(tl.float64), 0))
    return masses, tl.sum(count, 0)
