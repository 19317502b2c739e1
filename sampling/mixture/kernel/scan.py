"""The two passes over a row that every setting needs."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.listing import write_hits
from sampling.mixture.kernel.order import LEAST_FINITE, load_pair

DEPTH = tl.constexpr(4)  # blocks that the first pass reads at once: one rescaling of a slot's sum for all of them
NOTHING = tl.constexpr(-200.0)  # a binary logarithm whose power is 0 in float32
# (log2(1 + t) − t) / (t·(1 − t)), least squares at Chebyshev's nodes of [0, 1]: log2(1 + t) errs by 1.0e-7 in float32
C0, C1, C2, C3 = (tl.constexpr(c) for c in (0.4426949138, -0.2786353875, 0.2018626472, -0.1550704061))
C4, C5, C6, C7 = (tl.constexpr(c) for c in (0.1150445994, -0.07076450179, 0.02920528799, -0.005684766069))


@triton.jit
def risen(top, total, logits, scale):
    """Slots' maxima and Σ e^(logit − maximum) with DEPTH logits more each."""
    highest = tl.maximum(top, tl.max(logits, 0))
    return highest, total * tl.exp2((top - highest) * scale) + tl.sum(tl.exp2((logits - highest[None, :]) * scale), 0)


@triton.jit
def slots_of(theta, teacher, num_ids, scale, BLOCK: tl.constexpr):
    """Of each of BLOCK slots (ids equal modulo BLOCK): theta's largest logit with Σ e^(logit − largest), the teacher's,
    the largest sum of the two models' logits.

    NaN or +inf in a row make a sum NaN or a maximum +inf; a row of −inf has sums of 0.
    """
    slots = BLOCK * tl.arange(0, DEPTH)[:, None] + tl.arange(0, BLOCK)[None, :]
    theta_top = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    teacher_top = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    sum_top = tl.full([BLOCK], LEAST_FINITE, tl.float32)
    theta_total = tl.zeros([BLOCK], tl.float32)
    teacher_total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_ids, DEPTH * BLOCK):
        theta_logits, teacher_logits = load_pair(theta, teacher, start + slots, start + DEPTH * BLOCK, num_ids)
        theta_top, theta_total = risen(theta_top, theta_total, theta_logits, scale)
        teacher_top, teacher_total = risen(teacher_top, teacher_total, teacher_logits, scale)
        sum_top = tl.maximum(sum_top, tl.max(theta_logits + teacher_logits, 0))
    return theta_top, theta_total, teacher_top, teacher_total, sum_top


@triton.jit
def unshared(ratio):
    """1 − log2(1 + ratio) for a ratio of 0 to 1, exact at both ends."""
    curve = ((((((C7 * ratio + C6) * ratio + C5) * ratio + C4) * ratio + C3) * ratio + C2) * ratio + C1) * ratio + C0
    return (1.0 - ratio) * (1.0 - ratio * curve)


@triton.jit
def compare(
    theta, teacher, num_ids, theta_top, teacher_top, scale,
    theta_log2, teacher_log2,  # float32: log2 of the sums relative to the tops
    listed_theta, listed_teacher, listed_sum,  # ids that reach one of these are listed
    places, scratch, COUNT: tl.constexpr, LIST: tl.constexpr, FEW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """JS (nats), theta's mass off the list, the teacher's, how many ids are common, how many are on the list.

    Writes the first LIST ids of the list to `places`, ascending. Common ids are counted only with COUNT, else 0.

    With p ≥ q a term of JS is, but for ln 2 / 2, p·(1 − log2(1 + q/p)) + q·(1 − log2(1 + q/p) − log2(p/q)).
    """
    slots = tl.arange(0, BLOCK)
    js = tl.zeros([BLOCK], tl.float32)
    theta_rest = tl.zeros([BLOCK], tl.float32)
    teacher_rest = tl.zeros([BLOCK], tl.float32)
    common = tl.zeros([BLOCK], tl.int32)
    num_listed = tl.full([], 0, tl.int32)
    for first in range(0, num_ids, 32 * BLOCK):
        last = tl.minimum(first + 32 * BLOCK, num_ids)
        hits, bit = tl.zeros([BLOCK], tl.int32), tl.full([], 1, tl.int32)
        for start in range(first, last, BLOCK):
            theta_logits, teacher_logits = load_pair(theta, teacher, start + slots, start + BLOCK, num_ids)
            log_theta = tl.maximum((theta_logits - theta_top) * scale - theta_log2, NOTHING)
            log_teacher = tl.maximum((teacher_logits - teacher_top) * scale - teacher_log2, NOTHING)
            p, q = tl.exp2(log_theta), tl.exp2(log_teacher)
            apart = tl.abs(log_theta - log_teacher)
            own = unshared(tl.exp2(-apart))
            js += tl.maximum(p, q) * own + tl.minimum(p, q) * (own - apart)
            both = theta_logits + teacher_logits
            if COUNT:
                common += (both > float("-inf")).to(tl.int32)
            listed = (theta_logits >= listed_theta) | (teacher_logits >= listed_teacher) | (both >= listed_sum)
            theta_rest += tl.where(listed, 0.0, p)
            teacher_rest += tl.where(listed, 0.0, q)
            hits |= tl.where(listed, bit, 0)
            bit = bit << 1
        num_blocks = tl.cdiv(last - first, BLOCK)
        num_listed = write_hits(hits, first, num_blocks, num_listed, places, scratch, LIST, FEW, BLOCK)
    return (
        tl.sum(js.to(tl.float64), 0) * 0.34657359027997264,  # ln 2 / 2: two halves, binary logarithms
        tl.sum(theta_rest.to(tl.float64), 0),
        tl.sum(teacher_rest.to(tl.float64), 0),
        tl.sum(common, 0),
        num_listed,
    )
