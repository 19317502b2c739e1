"""The order of a row's logits: thresholds are bisected, nothing is sorted."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

LEAST_KEY = tl.constexpr(-(2**31))
LEAST_FINITE_KEY = tl.constexpr(-(2**31) + 2**23)  # of −3.4e38; keys below it are −inf's and NaN's
LEAST_FINITE = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def load_logits(row, ids, end, num_ids):
    """float32 logits of a block's ids, −inf past `num_ids`; a block that ends before it is read 16 bytes at once."""
    if end <= num_ids:
        logits = tl.load(row + ids)
    else:
        logits = tl.load(row + ids, mask=ids < num_ids, other=float("-inf"))
    return logits.to(tl.float32)


@triton.jit
def load_pair(theta, teacher, ids, end, num_ids):
    """`load_logits` of both models, on their way together."""
    if end <= num_ids:
        theta_logits, teacher_logits = tl.load(theta + ids), tl.load(teacher + ids)
    else:
        theta_logits = tl.load(theta + ids, mask=ids < num_ids, other=float("-inf"))
        teacher_logits = tl.load(teacher + ids, mask=ids < num_ids, other=float("-inf"))
    return theta_logits.to(tl.float32), teacher_logits.to(tl.float32)


@triton.jit
def sortable(logits):
    """int32 keys in the order of float32 logits; both zeros have one key."""
    bits = tl.where(logits == 0, 0.0, logits).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def least_logit(key):
    """The finite float32 that a key was made of; the least finite one for lower keys."""
    kept = tl.maximum(key, LEAST_FINITE_KEY)
    return (kept ^ ((kept >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def tile_threshold(keys, weights, target, LOW_BITS: tl.constexpr):
    """The largest t with Σ weights[keys ≥ t] ≥ target, its LOW_BITS lowest bits 0; LEAST_KEY where all weigh less."""
    reached = tl.sum(tl.where(keys >= 0, weights, 0), 0) >= target
    key = tl.where(reached, 0, LEAST_KEY).to(tl.int32)
    for place in range(31 - LOW_BITS):
        candidate = key + (1 << (30 - place))
        reached = tl.sum(tl.where(keys >= candidate, weights, 0), 0) >= target
        key = tl.where(reached, candidate, key)
    return key


@triton.jit
def pair_thresholds(first, second, count, LOW_BITS: tl.constexpr):
    """`tile_threshold` of two tiles whose keys weigh 1 each; both are counted by one sum."""
    totals = tl.sum((first >= 0).to(tl.int64) + ((second >= 0).to(tl.int64) << 32), 0)
    first_key = tl.where((totals & 0x7FFFFFFF) >= count, 0, LEAST_KEY).to(tl.int32)
    second_key = tl.where((totals >> 32) >= count, 0, LEAST_KEY).to(tl.int32)
    for place in range(31 - LOW_BITS):
        first_next, second_next = first_key + (1 << (30 - place)), second_key + (1 << (30 - place))
        totals = tl.sum((first >= first_next).to(tl.int64) + ((second >= second_next).to(tl.int64) << 32), 0)
        first_key = tl.where((totals & 0x7FFFFFFF) >= count, first_next, first_key)
        second_key = tl.where((totals >> 32) >= count, second_next, second_key)
    return first_key, second_key


@triton.jit
def risen_key(key, step, first, second, third, target):
    """A threshold two bits further: by as many steps as still leave `target`, the slots' sums of each being given."""
    steps = (tl.sum(first.to(tl.float64), 0) >= target).to(tl.int32)
    steps += (tl.sum(second.to(tl.float64), 0) >= target).to(tl.int32)
    steps += (tl.sum(third.to(tl.float64), 0) >= target).to(tl.int32)
    return key + step * steps


@triton.jit
def row_threshold(
    row,
    num_ids,
    highest,  # float32: what COUNT does not read
    scale,  # float32: log2(e) / temperature
    log2_total,  # float32
    target,
    COUNT: tl.constexpr,  # every finite logit weighs 1; else its probability
    LOW_BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`tile_threshold` over a whole row, two bits a pass. float32 exponentials, float64 sums."""
    slots = tl.arange(0, BLOCK)
    key = tl.full([], LEAST_KEY, tl.int32)
    for place in range((32 - LOW_BITS) // 2):
        step = 1 << (30 - 2 * place)
        first = tl.zeros([BLOCK], tl.float32)
        second = tl.zeros([BLOCK], tl.float32)
        third = tl.zeros([BLOCK], tl.float32)
        for start in range(0, num_ids, BLOCK):
            logits = load_logits(row, start + slots, start + BLOCK, num_ids)
            keys = sortable(logits)
            if COUNT:
                weights = tl.where(logits > float("-inf"), 1.0, 0.0)
            else:
                weights = tl.exp2((logits - highest) * scale - log2_total)
            first += tl.where(keys >= key + step, weights, 0.0)
            second += tl.where(keys >= key + 2 * step, weights, 0.0)
            third += tl.where(keys >= key + 3 * step, weights, 0.0)
        key = risen_key(key, step, first, second, third, target)
    return key


@triton.jit
def num_reaching(row, num_ids, least, BLOCK: tl.constexpr):
    """How many of a row's logits are at least a finite one: one pass."""
    slots = tl.arange(0, BLOCK)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, num_ids, BLOCK):
        count += (load_logits(row, start + slots, start + BLOCK, num_ids) >= least).to(tl.int32)
    return tl.sum(count, 0)
