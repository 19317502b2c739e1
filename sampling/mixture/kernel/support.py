"""Sums over a row's support, which kernel/mixture.py decides: over its candidates, and what they do not hold."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: SIM102 (a branch on a constexpr is taken while compiling: it stays apart from one on the GPU)

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.moments import in_support, merge, row_moments, row_two_tilts, tile_moments


@triton.jit
def moments(
    row, candidates, overflow, cutoffs, region_min, support_of, weight, OVERFLOW: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """`tile_moments` of the candidates in the support; of the whole support on overflow."""
    log_theta, log_teacher, in_region = candidates
    mask = in_region & in_support(log_theta, log_teacher, support_of)
    log_sum, mean_theta, mean_teacher, square, size, num_one_sided = tile_moments(log_theta, log_teacher, mask, weight)
    if OVERFLOW:
        if overflow:
            row_log, row_theta, row_teacher, row_square, row_size, row_one_sided = row_moments(
                row, cutoffs, region_min, support_of, weight, BLOCK
            )
            log_sum, tile_share, row_share = merge(log_sum, row_log)
            mean_theta = tile_share * mean_theta + row_share * row_theta
            mean_teacher = tile_share * mean_teacher + row_share * row_teacher
            square = tile_share * square + row_share * row_square
            size += row_size
            num_one_sided += row_one_sided
    return log_sum, mean_theta, mean_teacher, square, size, num_one_sided


@triton.jit
def ess_sums(
    row, candidates, overflow, cutoffs, region_min, support_of, alpha, OVERFLOW: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """log Σ with E[d] of the tilts −α and 2 − α: of π_θ²/q and of π_t²/q, each but for Z."""
    log_theta, log_teacher, in_region = candidates
    mask = in_region & in_support(log_theta, log_teacher, support_of)
    theta_log, low, high, _, _, _ = tile_moments(log_theta, log_teacher, mask, -alpha)
    theta_mean = high - low
    teacher_log, low, high, _, _, _ = tile_moments(log_theta, log_teacher, mask, 2 - alpha)
    teacher_mean = high - low
    if OVERFLOW:
        if overflow:
            row_theta, row_theta_mean, row_teacher, row_teacher_mean = row_two_tilts(
                row, cutoffs, region_min, support_of, -alpha, 2 - alpha, BLOCK
            )
            theta_log, tile_share, row_share = merge(theta_log, row_theta)
            theta_mean = tile_share * theta_mean + row_share * row_theta_mean
            teacher_log, tile_share, row_share = merge(teacher_log, row_teacher)
            teacher_mean = tile_share * teacher_mean + row_share * row_teacher_mean
    return theta_log, theta_mean, teacher_log, teacher_mean
