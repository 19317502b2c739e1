"""The draw of one token of a row: `sampling.mixture.draw` for one program of a GPU."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.draw import MASK as WORD
from sampling.mixture.draw import MULTIPLIERS, ROUNDS, WEYL
from sampling.mixture.kernel.moments import centre_of, row_scores, tilt
from sampling.mixture.kernel.order import load_pair, sortable

MASK = tl.constexpr(WORD)
LEFT, RIGHT = tl.constexpr(MULTIPLIERS[0]), tl.constexpr(MULTIPLIERS[1])
FIRST_WEYL, SECOND_WEYL = tl.constexpr(WEYL[0]), tl.constexpr(WEYL[1])
NUM_ROUNDS = tl.constexpr(ROUNDS)
NOWHERE = tl.constexpr(2**31 - 1)


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
    """The place of a tile (float64, any sum, −1 where all is 0) that a number in (0, 1] falls to."""
    places = tl.arange(0, TILE)
    cumulative = tl.cumsum(probs, 0)
    target = uniform_number * tl.sum(probs, 0)
    place = tl.min(tl.where((probs > 0) & (cumulative > target), places, NOWHERE), 0)
    return tl.where(place < NOWHERE, place, tl.max(tl.where(probs > 0, places, -1), 0))


@triton.jit
def tile_likeliest(scores, TILE: tl.constexpr):
    """The place of a tile's largest score, the lowest of equals."""
    return tl.min(tl.where(scores == tl.max(scores, 0), tl.arange(0, TILE), NOWHERE), 0)


@triton.jit
def row_draw(
    theta, teacher, num_ids, theta_top, teacher_top, sum_top, scale,
    inverse_temperature, least_teacher, whose, weight, log_total, uniform_number, least_key,
    CUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The id of a row that a number in (0, 1] falls to: block by block up to that id.

    `least_key`: of a score that `cut.row_cut` leaves; `log_total` is then of what it leaves.
    """
    slots = tl.arange(0, BLOCK)
    centre = centre_of(theta_top, teacher_top, sum_top, weight)
    weight = weight.to(tl.float32)
    level = (log_total / inverse_temperature - centre.to(tl.float64)).to(tl.float32)
    reached = uniform_number * 0.0
    token, last = tl.full([], -1, tl.int32), tl.full([], 0, tl.int32)
    start = tl.full([], 0, tl.int32)
    while (token < 0) & (start < num_ids):
        ids = start + slots
        scores = row_scores(
            theta, teacher, ids, start + BLOCK, num_ids, theta_top, teacher_top, least_teacher,
            whose, weight, centre,
        )  # fmt: skip
        if CUT:
            scores = tl.where(sortable(scores) >= least_key, scores, float("-inf"))
        probs = tl.exp2((scores - level) * scale).to(tl.float64)
        total = tl.sum(probs, 0)
        if reached + total > uniform_number:
            cumulative = reached + tl.cumsum(probs, 0)
            found = tl.min(tl.where((probs > 0) & (cumulative > uniform_number), ids, NOWHERE), 0)
            token = tl.where(found < NOWHERE, found, -1)
        last = tl.maximum(last, tl.max(tl.where(probs > 0, ids, 0), 0))
        reached += total
        start += BLOCK
    return tl.where(token < 0, last, token)


@triton.jit
def row_likeliest(
    theta, teacher, num_ids, theta_top, teacher_top, inverse_temperature,
    least_teacher, weight, BLOCK: tl.constexpr,
):  # fmt: skip
    """The likeliest id of a row under a tilt, the lowest of equals; scores in float64, one pass."""
    slots = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float64)
    best_ids = tl.full([BLOCK], NOWHERE, tl.int32)
    for start in range(0, num_ids, BLOCK):
        theta_logits, teacher_logits = load_pair(theta, teacher, start + slots, start + BLOCK, num_ids)
        log_theta = (theta_logits.to(tl.float64) - theta_top.to(tl.float64)) * inverse_temperature
        log_teacher = (teacher_logits.to(tl.float64) - teacher_top.to(tl.float64)) * inverse_temperature
        scores = tl.where(teacher_logits >= least_teacher, tilt(log_theta, log_teacher, weight), float("-inf"))
        better = scores > best
        best = tl.where(better, scores, best)
        best_ids = tl.where(better, start + slots, best_ids)
    return tl.min(tl.where(best == tl.max(best, 0), best_ids, NOWHERE), 0)
