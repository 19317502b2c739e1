"""The two passes over a row that every setting needs: maxima with sums, then the JS divergence with the candidates.

The second pass marks a candidate as one bit of its slot's int32 word, and writes the ids after each 32 blocks.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.row import LEAST_FINITE, load_pair

DEPTH = tl.constexpr(4)  # blocks that the first pass reads at once: one rescaling of a slot's sum for all of them
MIN_LOG2 = tl.constexpr(-200.0)  # a binary logarithm whose power is 0 in float32
# (log2(1 + t) − t) / (t·(1 − t)), least squares at Chebyshev's nodes of [0, 1]: log2(1 + t) errs by 1.0e-7 in float32
C0, C1, C2, C3 = (tl.constexpr(c) for c in (0.4426949138, -0.2786353875, 0.2018626472, -0.1550704061))
C4, C5, C6, C7 = (tl.constexpr(c) for c in (0.1150445994, -0.07076450179, 0.02920528799, -0.005684766069))


@triton.jit
def online_max_sum(slot_max, total, logits, scale):
    """Slots' maxima and Σ e^(logit − maximum), updated by DEPTH logits each (online softmax, Milakov 2018)."""
    new_max = tl.maximum(slot_max, tl.max(logits, 0))
    rescaled = total * tl.exp2((slot_max - new_max) * scale)
    return new_max, rescaled + tl.sum(tl.exp2((logits - new_max[None, :]) * scale), 0)


@triton.jit
def slot_maxima(theta, teacher, num_ids, scale, BLOCK: tl.constexpr):
    """For each slot: theta's largest logit with Σ e^(logit − largest), the teacher's, the largest sum of both logits.

    NaN or +inf in a row make a sum NaN or a maximum +inf; a row of −inf has sums of 0.
    """
    slots = BLOCK * tl.arange(0, DEPTH)[:, None] + tl.arange(0, BLOCK)[None, :]
    lowest = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    theta_max, teacher_max, sum_max = lowest, lowest, lowest
    theta_total, teacher_total = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_ids, DEPTH * BLOCK):
        theta_logits, teacher_logits = load_pair(theta, teacher, start + slots, start + DEPTH * BLOCK, num_ids)
        theta_max, theta_total = online_max_sum(theta_max, theta_total, theta_logits, scale)
        teacher_max, teacher_total = online_max_sum(teacher_max, teacher_total, teacher_logits, scale)
        sum_max = tl.maximum(sum_max, tl.max(theta_logits + teacher_logits, 0))
    return theta_max, theta_total, teacher_max, teacher_total, sum_max


@triton.jit
def write_blocks(hits, slots, first_id, num_blocks, length, out, LIST: tl.constexpr, BLOCK: tl.constexpr):
    """Append id first_id + k·BLOCK + slot for every bit k of a slot's hits, ascending; return the list's new length.

    One scan counts the positions of four blocks, 16 bits each.
    """
    for block in range(0, num_blocks, 4):
        four = (hits >> block) & 15
        wide = four.to(tl.int64)
        counts = (wide | (wide << 15) | (wide << 30) | (wide << 45)) & 0x0001000100010001
        reached, totals = tl.cumsum(counts, 0), tl.sum(counts, 0)
        for lane in tl.static_range(4):
            at = length + ((reached >> (16 * lane)) & 0xFFFF).to(tl.int32) - 1
            ids = first_id + (block + lane) * BLOCK + slots
            tl.store(out + at, ids, mask=(((four >> lane) & 1) > 0) & (at < LIST))
            length += ((totals >> (16 * lane)) & 0xFFFF).to(tl.int32)
    return length


@triton.jit
def write_hits(
    hits,  # int32 [BLOCK]: bit k is set where id first_id + k·BLOCK + slot is a candidate
    first_id, num_blocks, length, out, scratch, LIST: tl.constexpr, SMALL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Append those ids to `out`, of which the first LIST are kept; return the list's new length.

    Most slots have no hit: up to SMALL others are compacted first, by way of `scratch` (int32 [2·SMALL]).
    """
    slots = tl.arange(0, BLOCK)
    hit = (hits != 0).to(tl.int32)
    num_hit = tl.sum(hit, 0)
    if num_hit <= SMALL:
        at = tl.cumsum(hit, 0) - 1
        tl.store(scratch + at, slots, mask=hit > 0)
        tl.store(scratch + SMALL + at, hits, mask=hit > 0)
        tl.debug_barrier()  # other threads wrote
        few = tl.arange(0, SMALL)
        few_slots = tl.load(scratch + few, mask=few < num_hit, other=0)
        few_hits = tl.load(scratch + SMALL + few, mask=few < num_hit, other=0)
        length = write_blocks(few_hits, few_slots, first_id, num_blocks, length, out, LIST, BLOCK)
        tl.debug_barrier()  # the next group overwrites
    else:
        length = write_blocks(hits, slots, first_id, num_blocks, length, out, LIST, BLOCK)
    return length


@triton.jit
def one_minus_log2_1p(ratio):
    """1 − log2(1 + ratio) for a ratio of 0 to 1, exact at both ends."""
    curve = ((((((C7 * ratio + C6) * ratio + C5) * ratio + C4) * ratio + C3) * ratio + C2) * ratio + C1) * ratio + C0
    return (1.0 - ratio) * (1.0 - ratio * curve)


@triton.jit
def compare(
    row, theta_log2, teacher_log2,  # float32: log2 of the sums relative to the maxima
    cutoffs, out, scratch, COUNT: tl.constexpr, LIST: tl.constexpr, SMALL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """JS (nats), theta's mass off the candidate list, the teacher's, the number of common ids, of candidates.

    Writes the first LIST candidates to `out`, ascending. Common ids are counted only with COUNT, else 0.

    With p ≥ q a term of JS is, but for ln 2 / 2, p·(1 − log2(1 + q/p)) + q·(1 − log2(1 + q/p) − log2(p/q)).
    """
    slots = tl.arange(0, BLOCK)
    zeros = tl.zeros([BLOCK], tl.float32)
    js, theta_rest, teacher_rest = zeros, zeros, zeros
    num_common = tl.zeros([BLOCK], tl.int32)
    num_candidates = tl.full([], 0, tl.int32)
    for first in range(0, row.num_ids, 32 * BLOCK):
        last = tl.minimum(first + 32 * BLOCK, row.num_ids)
        hits, bit = tl.zeros([BLOCK], tl.int32), tl.full([], 1, tl.int32)
        for start in range(first, last, BLOCK):
            theta_logits, teacher_logits = load_pair(row.theta, row.teacher, start + slots, start + BLOCK, row.num_ids)
            log_theta = tl.maximum((theta_logits - row.theta_max) * row.scale - theta_log2, MIN_LOG2)
            log_teacher = tl.maximum((teacher_logits - row.teacher_max) * row.scale - teacher_log2, MIN_LOG2)
            p, q = tl.exp2(log_theta), tl.exp2(log_teacher)
            log_ratio = tl.abs(log_theta - log_teacher)
            larger_term = one_minus_log2_1p(tl.exp2(-log_ratio))
            js += tl.maximum(p, q) * larger_term + tl.minimum(p, q) * (larger_term - log_ratio)
            both = theta_logits + teacher_logits
            if COUNT:
                num_common += (both > float("-inf")).to(tl.int32)
            hit = (theta_logits >= cutoffs.theta) | (teacher_logits >= cutoffs.teacher) | (both >= cutoffs.both)
            theta_rest += tl.where(hit, 0.0, p)
            teacher_rest += tl.where(hit, 0.0, q)
            hits |= tl.where(hit, bit, 0)
            bit = bit << 1
        num_blocks = tl.cdiv(last - first, BLOCK)
        num_candidates = write_hits(hits, first, num_blocks, num_candidates, out, scratch, LIST, SMALL, BLOCK)
    return (
        tl.sum(js.to(tl.float64), 0) * 0.34657359027997264,  # ln 2 / 2: two halves, binary logarithms
        tl.sum(theta_rest.to(tl.float64), 0),
        tl.sum(teacher_rest.to(tl.float64), 0),
        tl.sum(num_common, 0),
        num_candidates,
    )
