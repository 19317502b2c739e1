"""The overlap of both models' top-k sets: its mass with its number of ids."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.row import load_pair
from sampling.mixture.kernel.threshold import (
    MIN_KEY,
    count_reaching,
    key_to_logit,
    pair_thresholds,
    row_threshold,
    sortable,
)


@triton.jit
def take_ties(keys, threshold, num_ties, LOW_BITS: tl.constexpr):
    """Keys bool above a threshold or, lowest ids first, among the `num_ties` equal to it; how many ties are left."""
    above = (keys - (1 << LOW_BITS) >= threshold) | (threshold == MIN_KEY)
    equal = (keys >= threshold) & (above == 0)
    taken = above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= num_ties))
    return taken, num_ties - tl.sum(equal.to(tl.int32), 0)


@triton.jit
def tile_top_k(keys, threshold, top_k, LOW_BITS: tl.constexpr):
    """Mask bool of a tile's `top_k` largest keys, of equals the first ones; `threshold`: the tile's own."""
    above = (keys - (1 << LOW_BITS) >= threshold) & (keys >= threshold)
    taken, _ = take_ties(keys, threshold, top_k - tl.sum(above.to(tl.int32), 0), LOW_BITS)
    return taken


@triton.jit
def tile_overlap(theta_keys, teacher_keys, theta_probs, teacher_probs, top_k, LOW_BITS: tl.constexpr):
    """The smaller mass (float64) and the number of the ids that are in both top-k sets, of equals the lowest ids."""
    theta_threshold, teacher_threshold = pair_thresholds(theta_keys, teacher_keys, top_k, LOW_BITS)
    both = tile_top_k(theta_keys, theta_threshold, top_k, LOW_BITS)
    both = both & tile_top_k(teacher_keys, teacher_threshold, top_k, LOW_BITS)
    both = both & (theta_probs > 0) & (teacher_probs > 0)
    theta_mass = tl.sum(tl.where(both, theta_probs, 0.0), 0)
    teacher_mass = tl.sum(tl.where(both, teacher_probs, 0.0), 0)
    return tl.minimum(theta_mass, teacher_mass), tl.sum(both.to(tl.int32), 0)


@triton.jit
def row_overlap(row, theta_log2, teacher_log2, top_k, LOW_BITS: tl.constexpr, BLOCK: tl.constexpr):
    """`tile_overlap` of a whole row in some 40 passes: for rows in which thousands of ids tie with the k-th one."""
    slots = tl.arange(0, BLOCK)
    theta_threshold = row_threshold(row.theta, row.num_ids, 0.0, 1.0, 0.0, top_k, True, LOW_BITS, BLOCK)
    teacher_threshold = row_threshold(row.teacher, row.num_ids, 0.0, 1.0, 0.0, top_k, True, LOW_BITS, BLOCK)
    next_theta, next_teacher = theta_threshold + (1 << LOW_BITS), teacher_threshold + (1 << LOW_BITS)
    theta_ties = top_k - count_reaching(row.theta, row.num_ids, key_to_logit(next_theta), BLOCK)
    teacher_ties = top_k - count_reaching(row.teacher, row.num_ids, key_to_logit(next_teacher), BLOCK)
    theta_mass, teacher_mass = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, row.num_ids, BLOCK):
        theta_logits, teacher_logits = load_pair(row.theta, row.teacher, start + slots, start + BLOCK, row.num_ids)
        in_theta, theta_ties = take_ties(sortable(theta_logits), theta_threshold, theta_ties, LOW_BITS)
        in_teacher, teacher_ties = take_ties(sortable(teacher_logits), teacher_threshold, teacher_ties, LOW_BITS)
        p = tl.exp2((theta_logits - row.theta_max) * row.scale - theta_log2)
        q = tl.exp2((teacher_logits - row.teacher_max) * row.scale - teacher_log2)
        both = in_theta & in_teacher & (theta_logits + teacher_logits > float("-inf"))
        theta_mass += tl.where(both, p, 0.0)
        teacher_mass += tl.where(both, q, 0.0)
        count += both.to(tl.int32)
    masses = tl.minimum(tl.sum(theta_mass.to(tl.float64), 0), tl.sum(teacher_mass.to(tl.float64), 0))
    return masses, tl.sum(count, 0)
