"""Threshold search over float32 logits: bisection of their sortable integer keys, without a sort."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.row import load_logits

MIN_KEY = tl.constexpr(-(2**31))
LEAST_FINITE_KEY = tl.constexpr(-(2**31) + 2**23)  # of −3.4e38; lower keys are those of −inf and NaN


@triton.jit
def sortable(logits):
    """int32 keys in the order of float32 logits; both zeros have one key."""
    bits = tl.where(logits == 0, 0.0, logits).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def key_to_logit(key):
    """The finite float32 that `sortable` made a key of; the least finite one for lower keys."""
    kept = tl.maximum(key, LEAST_FINITE_KEY)
    return (kept ^ ((kept >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def tile_threshold(keys, weights, target, LOW_BITS: tl.constexpr):
    """The largest t with Σ weights[keys ≥ t] ≥ target, its LOW_BITS lowest bits 0; MIN_KEY where all weigh less."""
    reached = tl.sum(tl.where(keys >= 0, weights, 0), 0) >= target
    key = tl.where(reached, 0, MIN_KEY).to(tl.int32)
    for step in range(31 - LOW_BITS):
        candidate = key + (1 << (30 - step))
        reached = tl.sum(tl.where(keys >= candidate, weights, 0), 0) >= target
        key = tl.where(reached, candidate, key)
    return key


@triton.jit
def pair_thresholds(first, second, count, LOW_BITS: tl.constexpr):
    """`tile_threshold` of two tiles whose keys weigh 1 each; one sum counts both."""
    totals = tl.sum((first >= 0).to(tl.int64) + ((second >= 0).to(tl.int64) << 32), 0)
    first_key = tl.where((totals & 0x7FFFFFFF) >= count, 0, MIN_KEY).to(tl.int32)
    second_key = tl.where((totals >> 32) >= count, 0, MIN_KEY).to(tl.int32)
    for step in range(31 - LOW_BITS):
        first_next, second_next = first_key + (1 << (30 - step)), second_key + (1 << (30 - step))
        totals = tl.sum((first >= first_next).to(tl.int64) + ((second >= second_next).to(tl.int64) << 32), 0)
        first_key = tl.where((totals & 0x7FFFFFFF) >= count, first_next, first_key)
        second_key = tl.where((totals >> 32) >= count, second_next, second_key)
    return first_key, second_key


@triton.jit
def advance_key(key, step, first, second, third, target):
    """A threshold raised by the most of 0 to 3 steps whose sum, given by slots, still reaches `target`."""
    steps = (tl.sum(first.to(tl.float64), 0) >= target).to(tl.int32)
    steps += (tl.sum(second.to(tl.float64), 0) >= target).to(tl.int32)
    steps += (tl.sum(third.to(tl.float64), 0) >= target).to(tl.int32)
    return key + step * steps


@triton.jit
def row_threshold(
    pointer,
    num_ids,
    row_max,  # float32; not read with COUNT
    scale,  # float32: log2(e) / temperature
    log2_total,  # float32
    target,
    COUNT: tl.constexpr,  # every finite logit weighs 1; else its probability
    LOW_BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`tile_threshold` over all logits at a pointer, two bits a pass. float32 exponentials, float64 sums."""
    slots = tl.arange(0, BLOCK)
    key = tl.full([], MIN_KEY, tl.int32)
    for turn in range((32 - LOW_BITS) // 2):
        step = 1 << (30 - 2 * turn)
        zeros = tl.zeros([BLOCK], tl.float32)
        first, second, third = zeros, zeros, zeros
        for start in range(0, num_ids, BLOCK):
            logits = load_logits(pointer, start + slots, start + BLOCK, num_ids)
            keys = sortable(logits)
            if COUNT:
                weights = tl.where(logits > float("-inf"), 1.0, 0.0)
            else:
                weights = tl.exp2((logits - row_max) * scale - log2_total)
            first += tl.where(keys >= key + step, weights, 0.0)
            second += tl.where(keys >= key + 2 * step, weights, 0.0)
            third += tl.where(keys >= key + 3 * step, weights, 0.0)
        key = advance_key(key, step, first, second, third, target)
    return key


@triton.jit
def count_reaching(pointer, num_ids, least, BLOCK: tl.constexpr):
    """How many of the logits at a pointer are at least a finite one: one pass."""
    slots = tl.arange(0, BLOCK)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, num_ids, BLOCK):
        count += (load_logits(pointer, start + slots, start + BLOCK, num_ids) >= least).to(tl.int32)
    return tl.sum(count, 0)
