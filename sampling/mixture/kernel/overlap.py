"""The ids that are among the k likeliest of both models."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.order import (
    LEAST_KEY,
    least_logit,
    load_pair,
    num_reaching,
    pair_thresholds,
    row_threshold,
    sortable,
)


@triton.jit
def ranked(keys, least, left, LOW_BITS: tl.constexpr):
    """Keys bool above a threshold or, lowest ids first, among the `left` that equal it; how many are still left."""
    above = (keys - (1 << LOW_BITS) >= least) | (least == LEAST_KEY)
    equal = (keys >= least) & (above == 0)
    taken = above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= left))
    return taken, left - tl.sum(equal.to(tl.int32), 0)


@triton.jit
def likeliest(keys, least, count, LOW_BITS: tl.constexpr):
    """Places bool of the `count` largest keys of a tile, of equals the first ones; `least`: the tile's threshold."""
    above = (keys - (1 << LOW_BITS) >= least) & (keys >= least)
    taken, _ = ranked(keys, least, count - tl.sum(above.to(tl.int32), 0), LOW_BITS)
    return taken


@triton.jit
def tile_overlap(theta_keys, teacher_keys, theta_probs, teacher_probs, top_k, LOW_BITS: tl.constexpr):
    """Mass float64 with count of the ids that are in both top-k sets, of equals the lowest ids."""
    theta_least, teacher_least = pair_thresholds(theta_keys, teacher_keys, top_k, LOW_BITS)
    both = likeliest(theta_keys, theta_least, top_k, LOW_BITS)
    both = both & likeliest(teacher_keys, teacher_least, top_k, LOW_BITS)
    both = both & (theta_probs > 0) & (teacher_probs > 0)
    theta_mass = tl.sum(tl.where(both, theta_probs, 0.0), 0)
    teacher_mass = tl.sum(tl.where(both, teacher_probs, 0.0), 0)
    return tl.minimum(theta_mass, teacher_mass), tl.sum(both.to(tl.int32), 0)


@triton.jit
def row_overlap(
    theta, teacher, num_ids, theta_top, teacher_top, scale,
    theta_log2, teacher_log2, top_k, LOW_BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`tile_overlap` of a whole row. Some 40 passes: for rows in which thousands of ids equal the k-th one."""
    slots = tl.arange(0, BLOCK)
    theta_least = row_threshold(theta, num_ids, 0.0, 1.0, 0.0, top_k, True, LOW_BITS, BLOCK)
    teacher_least = row_threshold(teacher, num_ids, 0.0, 1.0, 0.0, top_k, True, LOW_BITS, BLOCK)
    theta_left = top_k - num_reaching(theta, num_ids, least_logit(theta_least + (1 << LOW_BITS)), BLOCK)
    teacher_left = top_k - num_reaching(teacher, num_ids, least_logit(teacher_least + (1 << LOW_BITS)), BLOCK)
    theta_mass = tl.zeros([BLOCK], tl.float32)
    teacher_mass = tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, num_ids, BLOCK):
        theta_logits, teacher_logits = load_pair(theta, teacher, start + slots, start + BLOCK, num_ids)
        in_theta, theta_left = ranked(sortable(theta_logits), theta_least, theta_left, LOW_BITS)
        in_teacher, teacher_left = ranked(sortable(teacher_logits), teacher_least, teacher_left, LOW_BITS)
        p = tl.exp2((theta_logits - theta_top) * scale - theta_log2)
        q = tl.exp2((teacher_logits - teacher_top) * scale - teacher_log2)
        both = in_theta & in_teacher & (theta_logits + teacher_logits > float("-inf"))
        theta_mass += tl.where(both, p, 0.0)
        teacher_mass += tl.where(both, q, 0.0)
        count += both.to(tl.int32)
    masses = tl.minimum(tl.sum(theta_mass.to(tl.float64), 0), tl.sum(teacher_mass.to(tl.float64), 0))
    return masses, tl.sum(count, 0)
