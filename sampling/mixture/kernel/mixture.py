"""The mixture of one row, from its trust region to the token drawn, in Triton."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: SIM102, SIM109 (a branch on a constexpr is taken while compiling: it stays apart from one on the GPU)

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.cut import candidate_keys, row_cut, row_sums, tile_cut, tile_sums
from sampling.mixture.kernel.draw import row_argmax, row_draw, tile_argmax, tile_draw, uniform
from sampling.mixture.kernel.moments import COMMON, TEACHER, THETA, in_support, merge, tilt
from sampling.mixture.kernel.overlap import row_overlap, tile_overlap
from sampling.mixture.kernel.row import LN2, Candidates, Cutoffs
from sampling.mixture.kernel.support import ess_sums, moments
from sampling.mixture.kernel.threshold import (
    MIN_KEY,
    count_reaching,
    key_to_logit,
    row_threshold,
    sortable,
    tile_threshold,
)

FIXED, KL_SYMMETRY, ESS_BALANCE, ENTROPY = (tl.constexpr(method) for method in range(4))
TILE_TOLERANCE, MAX_PASSES = tl.constexpr(1e-12), tl.constexpr(100)  # as sampling.mixture.alpha
NUM_DIAGNOSTICS = tl.constexpr(20)
ROW_TOLERANCE, ROW_NOISE = tl.constexpr(5e-8), tl.constexpr(5e-7)  # where Newton stalls below the second, it ends


@triton.jit
def draw_from_mixture(
    row, theta_log, teacher_log, js, num_common, candidate_ids, num_candidates, overflow,
    cutoffs, settings, seed, key, position, tokens, diagnostics,
    METHOD: tl.constexpr, TRUST: tl.constexpr, CHECK: tl.constexpr, FORCE: tl.constexpr, AUTO: tl.constexpr,
    GREEDY: tl.constexpr, CUT: tl.constexpr, LOW_BITS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    OVERFLOW: tl.constexpr,
):  # fmt: skip
    """Compute support, α and diagnostics, and draw the token: all that follows the passes every row needs.

    `overflow` (only with OVERFLOW): the candidates do not hold the whole support, so passes over the row add the rest.
    """
    zero = theta_log * 0.0
    at = tl.arange(0, TILE)
    listed = at < tl.where(num_candidates <= TILE, num_candidates, 0)
    ids = tl.load(candidate_ids + at, mask=listed, other=0)
    theta_logits = tl.load(row.theta + ids, mask=listed, other=float("-inf")).to(tl.float32)
    teacher_logits = tl.load(row.teacher + ids, mask=listed, other=float("-inf")).to(tl.float32)
    log_theta = (theta_logits.to(tl.float64) - row.theta_max.to(tl.float64)) * row.inverse_temperature
    log_teacher = (teacher_logits.to(tl.float64) - row.teacher_max.to(tl.float64)) * row.inverse_temperature
    theta_keys, teacher_keys = sortable(theta_logits), sortable(teacher_logits)
    theta_probs, teacher_probs = tl.exp(log_theta - theta_log), tl.exp(log_teacher - teacher_log)

    overlap_mass, overlap_count = tile_overlap(
        theta_keys, teacher_keys, theta_probs, teacher_probs, settings.overlap_top_k, LOW_BITS
    )
    theta_cutoff, teacher_cutoff, sum_cutoff = cutoffs
    if OVERFLOW:
        if num_candidates > TILE:
            theta_log2, teacher_log2 = (theta_log / LN2).to(tl.float32), (teacher_log / LN2).to(tl.float32)
            overlap_mass, overlap_count = row_overlap(
                row, theta_log2, teacher_log2, settings.overlap_top_k, LOW_BITS, BLOCK
            )
            theta_cutoff = row.theta_max * 0.0 + float("inf")  # the list is too long to be used: no id is a candidate
            teacher_cutoff, sum_cutoff = theta_cutoff, theta_cutoff
    cutoffs = Cutoffs(theta_cutoff, teacher_cutoff, sum_cutoff)
    if TRUST:
        region_key = tile_threshold(teacher_keys, teacher_probs, settings.target_top_p, LOW_BITS)
        if OVERFLOW:
            if overflow:
                region_key = row_threshold(
                    row.teacher, row.num_ids, row.teacher_max, row.scale, (teacher_log / LN2).to(tl.float32),
                    settings.target_top_p, False, LOW_BITS, BLOCK,
                )  # fmt: skip
        region_min = key_to_logit(region_key)
    else:
        region_min = zero.to(tl.float32) + float("-inf")
    in_region = listed & (teacher_logits >= region_min)
    region_size = row.num_ids
    if TRUST:
        region_size = tl.sum(in_region.to(tl.int32), 0)
        if OVERFLOW:
            if overflow:
                region_size = count_reaching(row.teacher, row.num_ids, region_min, BLOCK)
    candidates = Candidates(log_theta, log_teacher, in_region)

    # log Σ of each model over the region (own) and over the region's common ids (norm), relative to its largest logit
    theta_own, teacher_own, theta_norm, teacher_norm = theta_log, teacher_log, theta_log, teacher_log
    theta_entropy, teacher_entropy = zero, zero
    if TRUST or METHOD == ENTROPY:
        needed = num_common >= 0
    else:
        needed = num_common < row.num_ids
    if needed:
        # Where theta knows every id of the trust region, the own sums are those of the common ids
        unknown = in_region & (theta_logits == float("-inf"))
        begin = tl.where(overflow | (tl.sum(unknown.to(tl.int32), 0) > 0), 0, 2)
        for turn in range(begin, 4):
            weight = zero + turn % 2
            turn_support = tl.where(turn < 2, turn, COMMON)
            log_sum, mean_theta, mean_teacher, _, _, _ = moments(
                row, candidates, overflow, cutoffs, region_min, turn_support, weight, OVERFLOW, BLOCK
            )
            entropy = tl.maximum(log_sum - tl.where(weight == 0, mean_theta, mean_teacher), 0.0)
            theta_own = tl.where(turn == 0, log_sum, theta_own)
            teacher_own = tl.where(turn == 1, log_sum, teacher_own)
            theta_norm = tl.where(turn == 2, log_sum, theta_norm)
            teacher_norm = tl.where(turn == 3, log_sum, teacher_norm)
            theta_entropy = tl.where(turn == 2, entropy, theta_entropy)
            teacher_entropy = tl.where(turn == 3, entropy, teacher_entropy)
        theta_own = tl.where(begin == 0, theta_own, theta_norm)
        teacher_own = tl.where(begin == 0, teacher_own, teacher_norm)

    disjoint = theta_norm == float("-inf")
    unstable = disjoint
    if CHECK:
        unstable = unstable | (js > settings.max_js) | (overlap_mass < settings.min_overlap)
    forced = (position == 0) & FORCE
    fallback = disjoint
    if AUTO:
        fallback = unstable
    fallback = fallback & (forced == 0)
    mixed = (forced | fallback) == 0
    start = zero + 0.5
    if METHOD == FIXED:
        start = settings.alpha
    if METHOD == ENTROPY:
        both = theta_entropy + teacher_entropy
        start = tl.where(both > 0, theta_entropy / tl.where(both > 0, both, 1.0), 0.5)
    alpha = tl.where(mixed, start, 1.0)
    solving = mixed & (METHOD == KL_SYMMETRY or METHOD == ESS_BALANCE)
    tolerance, noise = zero + TILE_TOLERANCE, zero
    if OVERFLOW:
        if overflow:
            tolerance, noise = zero + ROW_TOLERANCE, zero + ROW_NOISE

    # Bracketed Newton, as sampling.mixture.alpha; where α is given, one pass measures it
    low, high, previous = zero, zero + 1.0, zero + float("inf")
    log_sum, mean_theta, mean_teacher = zero, zero, zero
    size, num_one_sided, support_of = num_candidates * 0, num_candidates * 0, num_candidates * 0
    num_passes, running = num_candidates * 0, num_candidates * 0 + 1
    while running > 0:
        support_of = tl.where(alpha == 0, THETA, tl.where(alpha == 1, TEACHER, COMMON))
        log_sum, mean_theta, mean_teacher, square, size, num_one_sided = moments(
            row, candidates, overflow, cutoffs, region_min, support_of, alpha, OVERFLOW, BLOCK
        )
        if METHOD == ESS_BALANCE:
            theta_square, theta_mean, teacher_square, teacher_mean = ess_sums(
                row, candidates, overflow, cutoffs, region_min, support_of, alpha, OVERFLOW, BLOCK
            )
            value = (theta_square - 2 * theta_norm) - (teacher_square - 2 * teacher_norm)
            slope = teacher_mean - theta_mean
        else:
            gap = mean_teacher - mean_theta
            value = gap - (teacher_norm - theta_norm)
            slope = square - gap * gap
        error = tl.abs(value)
        num_passes += 1
        exhausted = (high - low <= 1e-16) | (num_passes >= MAX_PASSES)
        stalled = (error <= noise) & (error > previous / 2)
        done = (solving == 0) | (error <= tolerance) | stalled | exhausted | (value != value)
        low = tl.where(value < 0, alpha, low)
        high = tl.where(value > 0, alpha, high)
        newton = alpha - value / tl.maximum(slope, 1e-300)
        trusted = (newton > low) & (newton < high) & (error <= previous / 2)
        step = tl.where(trusted, newton, (low + high) / 2)
        alpha = tl.where(done, alpha, step)
        previous = error
        running = tl.where(done, 0, 1)

    theta_square, _, teacher_square, _ = ess_sums(
        row, candidates, overflow, cutoffs, region_min, support_of, alpha, OVERFLOW, BLOCK
    )
    at_end = support_of != COMMON
    theta_norm, teacher_norm = tl.where(at_end, theta_own, theta_norm), tl.where(at_end, teacher_own, teacher_norm)
    mean_q = tilt(mean_theta, mean_teacher, alpha) - log_sum
    kl_theta = tl.maximum(mean_q - (mean_theta - theta_norm), 0.0)
    kl_theta = tl.where((num_one_sided > 0) & (alpha == 1), float("inf"), kl_theta)
    kl_teacher = tl.maximum(mean_q - (mean_teacher - teacher_norm), 0.0)
    kl_teacher = tl.where((num_one_sided > 0) & (alpha == 0), float("inf"), kl_teacher)
    theta_square = tl.where(theta_square == float("-inf"), theta_square, theta_square - 2 * theta_norm)
    teacher_square = tl.where(teacher_square == float("-inf"), teacher_square, teacher_square - 2 * teacher_norm)
    log_ratio = teacher_square - theta_square
    log_ratio = tl.where(log_ratio == log_ratio, tl.minimum(tl.maximum(log_ratio, -80.0), 80.0), 0.0)

    mask = in_region & in_support(log_theta, log_teacher, support_of)
    scores = tl.where(mask, tilt(log_theta, log_teacher, alpha), float("-inf"))
    mean_score = mean_q + log_sum
    cut_key = tl.full([], MIN_KEY, tl.int32)
    if CUT:
        if OVERFLOW:
            if overflow:
                cut_key = row_cut(row, region_min, support_of, alpha, log_sum, settings, BLOCK)
                keys = candidate_keys(row, theta_logits, teacher_logits, alpha)
                scores = tl.where(keys >= cut_key, scores, float("-inf"))
            else:
                scores = tile_cut(scores, settings)
        else:
            scores = tile_cut(scores, settings)
        log_sum, mean_score, size = tile_sums(scores)
        if OVERFLOW:
            if overflow:
                row_log, row_mean, row_size = row_sums(row, cutoffs, region_min, support_of, alpha, cut_key, BLOCK)
                log_sum, tile_share, row_share = merge(log_sum, row_log)
                mean_score = tile_share * mean_score + row_share * row_mean
                size += row_size
    if GREEDY:
        index = tile_argmax(scores, TILE)
    else:
        number = uniform(seed, key, position)
        index = tile_draw(tl.exp(scores - log_sum), number, TILE)
    token = tl.sum(tl.where(at == index, ids, 0), 0)
    if OVERFLOW:
        if overflow:
            if GREEDY:
                token = row_argmax(row, region_min, alpha, BLOCK)
            else:
                token = row_draw(row, region_min, support_of, alpha, log_sum, number, cut_key, CUT, BLOCK)
    token_theta = (tl.load(row.theta + token).to(tl.float64) - row.theta_max.to(tl.float64)) * row.inverse_temperature
    token_teacher = tl.load(row.teacher + token).to(tl.float64) - row.teacher_max.to(tl.float64)
    token_teacher = token_teacher * row.inverse_temperature

    tl.store(tokens, token.to(tl.int64))
    values = (
        alpha, kl_theta, kl_teacher, tl.abs(kl_theta - kl_teacher), js, tl.minimum(overlap_mass, 1.0), overlap_count,
        size, log_sum - mean_score, tl.exp(log_ratio), log_sum - tilt(theta_log, teacher_log, alpha),
        tilt(token_theta, token_teacher, alpha) - log_sum, token_theta - theta_log, token_teacher - teacher_log,
        zero, zero, tl.where(forced, 1.0, tl.where(fallback, 2.0, 0.0)), zero + 1.0, region_size < row.num_ids,
        unstable,
    )  # fmt: skip
    for column in tl.static_range(NUM_DIAGNOSTICS):  # sampling.mixture.torch_draw.COLUMNS
        tl.store(diagnostics + column, values[column].to(tl.float64))
