"""The draw of one token of a row: `sampling.mixture.draw` for one program of the GPU."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.draw import MASK as WORD_MASK
from sampling.mixture.draw import MULTIPLIERS, ROUNDS, WEYL
from sampling.mixture.kernel.moments import row_scores, score_offset, tilt
from sampling.mixture.kernel.row import load_pair
from sampling.mixture.kernel.threshold import sortable

MASK = tl.constexpr(WORD_MASK)
LEFT, RIGHT = tl.constexpr(MULTIPLIERS[0]), tl.constexpr(MULTIPLIERS[1])
FIRST_WEYL, SECOND_WEYL = tl.constexpr(WEYL[0]), tl.constexpr(WEYL[1])
NUM_ROUNDS = tl.constexpr(ROUNDS)
NO_ID = tl.constexpr(2**31 - 1)


@triton.jit
def uniform(seed, key, position):
    """`sampling.mixture.draw.uniforms` of one row, bit for bit; all three int64."""
    mask = tl.full([], MASK, tl.int64)
    c0, c1, c2, c3 = key & mask, (key >> 32) & mask, position & mask, position * 0
    k0, k1 = seed & mask, seed >> 32
    for _ in range(NUM_ROUNDS):
        left, right = c0 * tl.full([], LEFT, tl.int64), c2 * tl.full([], RIGHT, tl.int64)
        n0 = ((right >> 32) & mask) ^ c1 ^ k0
        n2 = ((left >> 32) & mask) ^ c3 ^ k1
        c0, c1, c2, c3 = n0, right & mask, n2, left & mask
        k0 = (k0 + tl.full([], FIRST_WEYL, tl.int64)) & mask
        k1 = (k1 + tl.full([], SECOND_WEYL, tl.int64)) & mask
    bits = (c0 << 21) | (c1 >> 11)
    return (bits.to(tl.float64) + 0.5) * 1.1102230246251565e-16  # 2⁻⁵³


@triton.jit
def tile_draw(probs, uniform_number, TILE: tl.constexpr):
    """The index in a tile (float64, any sum) that a number in (0, 1] selects by inverse CDF; −1 where all are 0."""
    indices = tl.arange(0, TILE)
    cumulative = tl.cumsum(probs, 0)
    target = uniform_number * tl.sum(probs, 0)
    index = tl.min(tl.where((probs > 0) & (cumulative > target), indices, NO_ID), 0)
    return tl.where(index < NO_ID, index, tl.max(tl.where(probs > 0, indices, -1), 0))


@triton.jit
def tile_argmax(scores, TILE: tl.constexpr):
    """The index of a tile's largest score, the lowest of equals."""
    return tl.min(tl.where(scores == tl.max(scores, 0), tl.arange(0, TILE), NO_ID), 0)


@triton.jit
def row_draw(
    row, region_min, support_of, weight, log_sum, uniform_number, cut_key, CUT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The id of a row that a number in (0, 1] selects by inverse CDF: block by block up to that id.

    `cut_key`: the least key of a score that `cut.row_cut` keeps; `log_sum` is then of the ids kept.
    """
    slots = tl.arange(0, BLOCK)
    offset = score_offset(row, weight)
    weight = weight.to(tl.float32)
    level = (log_sum / row.inverse_temperature - offset.to(tl.float64)).to(tl.float32)
    reached = uniform_number * 0.0
    token, last = tl.full([], -1, tl.int32), tl.full([], 0, tl.int32)
    start = tl.full([], 0, tl.int32)
    while (token < 0) & (start < row.num_ids):
        ids = start + slots
        scores = row_scores(row, ids, start + BLOCK, region_min, support_of, weight, offset)
        if CUT:
            scores = tl.where(sortable(scores) >= cut_key, scores, float("-inf"))
        probs = tl.exp2((scores - level) * row.scale).to(tl.float64)
        total = tl.sum(probs, 0)
        if reached + total > uniform_number:
            cumulative = reached + tl.cumsum(probs, 0)
            found = tl.min(tl.where((probs > 0) & (cumulative > uniform_number), ids, NO_ID), 0)
            token = tl.where(found < NO_ID, found, -1)
        last = tl.maximum(last, tl.max(tl.where(probs > 0, ids, 0), 0))
        reached += total
        start += BLOCK
    return tl.where(token < 0, last, token)


@triton.jit
def row_argmax(row, region_min, weight, BLOCK: tl.constexpr):
    """The likeliest id of a row under a tilt, the lowest of equals; scores in float64, one pass."""
    slots = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float64)
    best_ids = tl.full([BLOCK], NO_ID, tl.int32)
    for start in range(0, row.num_ids, BLOCK):
        theta_logits, teacher_logits = load_pair(row.theta, row.teacher, start + slots, start + BLOCK, row.num_ids)
        log_theta = (theta_logits.to(tl.float64) - row.theta_max.to(tl.float64)) * row.inverse_temperature
        log_teacher = (teacher_logits.to(tl.float64) - row.teacher_max.to(tl.float64)) * row.inverse_temperature
        scores = tl.where(teacher_logits >= region_min, tilt(log_theta, log_teacher, weight), float("-inf"))
        better = scores > best
        best = tl.where(better, scores, best)
        best_ids = tl.where(better, start + slots, best_ids)
    return tl.min(tl.where(best == tl.max(best, 0), best_ids, NO_ID), 0)
