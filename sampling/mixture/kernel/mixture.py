"""The mixture of one row, from its trust region to the token drawn, in Triton."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: SIM102, SIM109 (a branch on a constexpr is taken while compiling: it stays apart from one on the GPU)

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.cut import row_cut, row_keys, row_sums, tile_cut, tile_sums
from sampling.mixture.kernel.draw import row_draw, row_likeliest, tile_draw, tile_likeliest, uniform
from sampling.mixture.kernel.moments import COMMON, LN2, TEACHERS, THETAS, alive, shares, tilt
from sampling.mixture.kernel.order import LEAST_KEY, least_logit, num_reaching, row_threshold, sortable, tile_threshold
from sampling.mixture.kernel.overlap import row_overlap, tile_overlap
from sampling.mixture.kernel.support import moments, tilted_pair

FIXED, KL_SYMMETRY, ESS_BALANCE, ENTROPY = (tl.constexpr(method) for method in range(4))
TILE_TOLERANCE, MAX_PASSES = tl.constexpr(1e-12), tl.constexpr(100)  # as sampling.mixture.alpha
ROW_TOLERANCE, ROW_NOISE = tl.constexpr(5e-8), tl.constexpr(5e-7)  # where Newton stalls below the second, it ends


@triton.jit
def draw_from_mixture(
    theta, teacher, num_ids, theta_top, teacher_top, sum_top, scale, inverse_temperature,
    theta_log, teacher_log, js, num_common, places, num_listed, whole,
    listed_theta, listed_teacher, listed_sum, top_k, fixed, top_p, max_js, min_overlap,
    most, mass, log_share, seed, key, position, tokens, diagnostics,
    METHOD: tl.constexpr, TRUST: tl.constexpr, CHECK: tl.constexpr, FORCE: tl.constexpr, AUTO: tl.constexpr,
    GREEDY: tl.constexpr, CUT: tl.constexpr, LOW_BITS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """All that follows the passes every row needs: support, α, figures, token."""
    zero = theta_log * 0.0
    at = tl.arange(0, TILE)
    listed = at < tl.where(num_listed <= TILE, num_listed, 0)
    ids = tl.load(places + at, mask=listed, other=0)
    theta_logits = tl.load(theta + ids, mask=listed, other=float("-inf")).to(tl.float32)
    teacher_logits = tl.load(teacher + ids, mask=listed, other=float("-inf")).to(tl.float32)
    log_theta = (theta_logits.to(tl.float64) - theta_top.to(tl.float64)) * inverse_temperature
    log_teacher = (teacher_logits.to(tl.float64) - teacher_top.to(tl.float64)) * inverse_temperature
    theta_keys, teacher_keys = sortable(theta_logits), sortable(teacher_logits)
    theta_probs, teacher_probs = tl.exp(log_theta - theta_log), tl.exp(log_teacher - teacher_log)

    overlap_mass, overlap_count = tile_overlap(theta_keys, teacher_keys, theta_probs, teacher_probs, top_k, LOW_BITS)
    if ROWS:
        if num_listed > TILE:
            overlap_mass, overlap_count = row_overlap(
                theta, teacher, num_ids, theta_top, teacher_top, scale,
                (theta_log / LN2).to(tl.float32), (teacher_log / LN2).to(tl.float32), top_k, LOW_BITS, BLOCK,
            )  # fmt: skip
            listed_theta = theta_top * 0.0 + float("inf")  # the list holds nothing of the row
            listed_teacher, listed_sum = listed_theta, listed_theta
    if TRUST:
        least_key = tile_threshold(teacher_keys, teacher_probs, top_p, LOW_BITS)
        if ROWS:
            if whole:
                least_key = row_threshold(
                    teacher, num_ids, teacher_top, scale, (teacher_log / LN2).to(tl.float32),
                    top_p, False, LOW_BITS, BLOCK,
                )  # fmt: skip
        least_teacher = least_logit(least_key)
    else:
        least_teacher = zero.to(tl.float32) + float("-inf")
    inside = listed & (teacher_logits >= least_teacher)
    num_inside = num_ids
    if TRUST:
        num_inside = tl.sum(inside.to(tl.int32), 0)
        if ROWS:
            if whole:
                num_inside = num_reaching(teacher, num_ids, least_teacher, BLOCK)

    # Sums of each model on the support and on the common ids, relative to its largest logit
    theta_own, teacher_own, theta_norm, teacher_norm = theta_log, teacher_log, theta_log, teacher_log
    theta_nats, teacher_nats = zero, zero
    if TRUST or METHOD == ENTROPY:
        needed = num_common >= 0
    else:
        needed = num_common < num_ids
    if needed:
        # Where theta knows every id of the trust region, the own sums are those of the common ids
        unknown = inside & (theta_logits == float("-inf"))
        begin = tl.where(whole | (tl.sum(unknown.to(tl.int32), 0) > 0), 0, 2)
        for turn in range(begin, 4):
            weight = zero + turn % 2
            whose = tl.where(turn < 2, turn, COMMON)
            log_total, mean_theta, mean_teacher, _, _, _ = moments(
                log_theta, log_teacher, inside, weight, whose, whole,
                theta, teacher, num_ids, theta_top, teacher_top, sum_top, scale,
                inverse_temperature, listed_theta, listed_teacher, listed_sum, least_teacher, ROWS, BLOCK,
            )  # fmt: skip
            nats = tl.maximum(log_total - tl.where(weight == 0, mean_theta, mean_teacher), 0.0)
            theta_own = tl.where(turn == 0, log_total, theta_own)
            teacher_own = tl.where(turn == 1, log_total, teacher_own)
            theta_norm = tl.where(turn == 2, log_total, theta_norm)
            teacher_norm = tl.where(turn == 3, log_total, teacher_norm)
            theta_nats = tl.where(turn == 2, nats, theta_nats)
            teacher_nats = tl.where(turn == 3, nats, teacher_nats)
        theta_own = tl.where(begin == 0, theta_own, theta_norm)
        teacher_own = tl.where(begin == 0, teacher_own, teacher_norm)

    disjoint = theta_norm == float("-inf")
    unstable = disjoint
    if CHECK:
        unstable = unstable | (js > max_js) | (overlap_mass < min_overlap)
    forced = (position == 0) & FORCE
    fallback = disjoint
    if AUTO:
        fallback = unstable
    fallback = fallback & (forced == 0)
    free = (forced | fallback) == 0
    start = zero + 0.5
    if METHOD == FIXED:
        start = fixed
    if METHOD == ENTROPY:
        both_nats = theta_nats + teacher_nats
        start = tl.where(both_nats > 0, theta_nats / tl.where(both_nats > 0, both_nats, 1.0), 0.5)
    alpha = tl.where(free, start, 1.0)
    solving = free & (METHOD == KL_SYMMETRY or METHOD == ESS_BALANCE)
    tolerance, coarse = zero + TILE_TOLERANCE, zero
    if ROWS:
        if whole:
            tolerance, coarse = zero + ROW_TOLERANCE, zero + ROW_NOISE

    # Newton in a bracket, as sampling.mixture.alpha; where α is given, one round measures it
    low, high, previous = zero, zero + 1.0, zero + float("inf")
    log_total, mean_theta, mean_teacher = zero, zero, zero
    num_live, num_lame, whose = num_listed * 0, num_listed * 0, num_listed * 0
    num_passes, going = num_listed * 0, num_listed * 0 + 1
    while going > 0:
        whose = tl.where(alpha == 0, THETAS, tl.where(alpha == 1, TEACHERS, COMMON))
        log_total, mean_theta, mean_teacher, square, num_live, num_lame = moments(
            log_theta, log_teacher, inside, alpha, whose, whole,
            theta, teacher, num_ids, theta_top, teacher_top, sum_top, scale,
            inverse_temperature, listed_theta, listed_teacher, listed_sum, least_teacher, ROWS, BLOCK,
        )  # fmt: skip
        if METHOD == ESS_BALANCE:
            theta_square, theta_mean, teacher_square, teacher_mean = tilted_pair(
                log_theta, log_teacher, inside, alpha, whose, whole,
                theta, teacher, num_ids, theta_top, teacher_top, sum_top, scale,
                inverse_temperature, listed_theta, listed_teacher, listed_sum, least_teacher, ROWS, BLOCK,
            )  # fmt: skip
            value = (theta_square - 2 * theta_norm) - (teacher_square - 2 * teacher_norm)
            slope = teacher_mean - theta_mean
        else:
            gap = mean_teacher - mean_theta
            value = gap - (teacher_norm - theta_norm)
            slope = square - gap * gap
        size = tl.abs(value)
        num_passes += 1
        exhausted = (high - low <= 1e-16) | (num_passes >= MAX_PASSES)
        stalled = (size <= coarse) & (size > previous / 2)
        done = (solving == 0) | (size <= tolerance) | stalled | exhausted | (value != value)
        low = tl.where(value < 0, alpha, low)
        high = tl.where(value > 0, alpha, high)
        newton = alpha - value / tl.maximum(slope, 1e-300)
        trusted = (newton > low) & (newton < high) & (size <= previous / 2)
        step = tl.where(trusted, newton, (low + high) / 2)
        alpha = tl.where(done, alpha, step)
        previous = size
        going = tl.where(done, 0, 1)

    theta_square, _, teacher_square, _ = tilted_pair(
        log_theta, log_teacher, inside, alpha, whose, whole,
        theta, teacher, num_ids, theta_top, teacher_top, sum_top, scale,
        inverse_temperature, listed_theta, listed_teacher, listed_sum, least_teacher, ROWS, BLOCK,
    )  # fmt: skip
    at_end = whose != COMMON
    theta_norm, teacher_norm = tl.where(at_end, theta_own, theta_norm), tl.where(at_end, teacher_own, teacher_norm)
    mean_q = tilt(mean_theta, mean_teacher, alpha) - log_total
    kl_theta = tl.maximum(mean_q - (mean_theta - theta_norm), 0.0)
    kl_theta = tl.where((num_lame > 0) & (alpha == 1), float("inf"), kl_theta)
    kl_teacher = tl.maximum(mean_q - (mean_teacher - teacher_norm), 0.0)
    kl_teacher = tl.where((num_lame > 0) & (alpha == 0), float("inf"), kl_teacher)
    theta_square = tl.where(theta_square == float("-inf"), theta_square, theta_square - 2 * theta_norm)
    teacher_square = tl.where(teacher_square == float("-inf"), teacher_square, teacher_square - 2 * teacher_norm)
    log_ratio = teacher_square - theta_square
    log_ratio = tl.where(log_ratio == log_ratio, tl.minimum(tl.maximum(log_ratio, -80.0), 80.0), 0.0)

    scores = tl.where(inside & alive(log_theta, log_teacher, whose), tilt(log_theta, log_teacher, alpha), float("-inf"))
    log_drawn, mean_drawn, num_drawn = log_total, mean_q + log_total, num_live
    least_key = tl.full([], LEAST_KEY, tl.int32)
    if CUT:
        if ROWS:
            if whole:
                least_key = row_cut(
                    theta, teacher, num_ids, theta_top, teacher_top, sum_top,
                    scale, inverse_temperature, least_teacher, whose, alpha, log_total, most, mass, log_share, BLOCK,
                )  # fmt: skip
                keys = row_keys(theta_logits, teacher_logits, theta_top, teacher_top, sum_top, alpha)
                scores = tl.where(keys >= least_key, scores, float("-inf"))
            else:
                scores = tile_cut(scores, most, mass, log_share)
        else:
            scores = tile_cut(scores, most, mass, log_share)
        log_drawn, mean_drawn, num_drawn = tile_sums(scores)
        if ROWS:
            if whole:
                row_log, row_mean, row_num = row_sums(
                    theta, teacher, num_ids, theta_top, teacher_top, sum_top,
                    scale, inverse_temperature, listed_theta, listed_teacher, listed_sum, least_teacher, whose, alpha,
                    least_key, BLOCK,
                )  # fmt: skip
                log_drawn, of_list, of_row = shares(log_drawn, row_log)
                mean_drawn = of_list * mean_drawn + of_row * row_mean
                num_drawn += row_num
    if GREEDY:
        place = tile_likeliest(scores, TILE)
    else:
        number = uniform(seed, key, position)
        place = tile_draw(tl.exp(scores - log_drawn), number, TILE)
    token = tl.sum(tl.where(at == place, ids, 0), 0)
    if ROWS:
        if whole:
            if GREEDY:
                token = row_likeliest(
                    theta, teacher, num_ids, theta_top, teacher_top, inverse_temperature,
                    least_teacher, alpha, BLOCK,
                )  # fmt: skip
            else:
                token = row_draw(
                    theta, teacher, num_ids, theta_top, teacher_top, sum_top,
                    scale, inverse_temperature, least_teacher, whose, alpha, log_drawn, number, least_key, CUT, BLOCK,
                )  # fmt: skip
    drawn_theta = (tl.load(theta + token).to(tl.float64) - theta_top.to(tl.float64)) * inverse_temperature
    drawn_teacher = (tl.load(teacher + token).to(tl.float64) - teacher_top.to(tl.float64)) * inverse_temperature

    tl.store(tokens, token.to(tl.int64))
    tl.store(diagnostics + 0, alpha)
    tl.store(diagnostics + 1, kl_theta)
    tl.store(diagnostics + 2, kl_teacher)
    tl.store(diagnostics + 3, tl.abs(kl_theta - kl_teacher))
    tl.store(diagnostics + 4, js)
    tl.store(diagnostics + 5, tl.minimum(overlap_mass, 1.0))
    tl.store(diagnostics + 6, overlap_count.to(tl.float64))
    tl.store(diagnostics + 7, num_drawn.to(tl.float64))
    tl.store(diagnostics + 8, log_drawn - mean_drawn)
    tl.store(diagnostics + 9, tl.exp(log_ratio))
    tl.store(diagnostics + 10, log_drawn - tilt(theta_log, teacher_log, alpha))
    tl.store(diagnostics + 11, tilt(drawn_theta, drawn_teacher, alpha) - log_drawn)
    tl.store(diagnostics + 12, drawn_theta - theta_log)
    tl.store(diagnostics + 13, drawn_teacher - teacher_log)
    tl.store(diagnostics + 14, zero)
    tl.store(diagnostics + 15, zero)
    tl.store(diagnostics + 16, tl.where(forced, 1.0, tl.where(fallback, 2.0, 0.0)).to(tl.float64))
    tl.store(diagnostics + 17, zero + 1.0)
    tl.store(diagnostics + 18, (num_inside < num_ids).to(tl.float64))
    tl.store(diagnostics + 19, unstable.to(tl.float64))
