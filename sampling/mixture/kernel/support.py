"""Sums over a row's support: its list, with the row's other ids where the list does not hold all of it."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: SIM102 (a branch on a constexpr is taken while compiling: it stays apart from one on the GPU)

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.moments import alive, row_moments, row_pair, shares, tile_moments


@triton.jit
def moments(
    log_theta, log_teacher, inside, weight, whose, whole,
    theta, teacher, num_ids, theta_top, teacher_top, sum_top, scale, inverse_temperature,
    listed_theta, listed_teacher, listed_sum, least_teacher, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`tile_moments` of the list; of the whole support where it is larger."""
    live = inside & alive(log_theta, log_teacher, whose)
    log_total, mean_theta, mean_teacher, square, num_live, num_lame = tile_moments(log_theta, log_teacher, live, weight)
    if ROWS:
        if whole:
            row_log, row_theta, row_teacher, row_square, row_live, row_lame = row_moments(
                theta, teacher, num_ids, theta_top, teacher_top, sum_top, scale, inverse_temperature,
                listed_theta, listed_teacher, listed_sum, least_teacher, whose, weight, BLOCK,
            )  # fmt: skip
            log_total, of_list, of_row = shares(log_total, row_log)
            mean_theta = of_list * mean_theta + of_row * row_theta
            mean_teacher = of_list * mean_teacher + of_row * row_teacher
            square = of_list * square + of_row * row_square
            num_live += row_live
            num_lame += row_lame
    return log_total, mean_theta, mean_teacher, square, num_live, num_lame


@triton.jit
def tilted_pair(
    log_theta, log_teacher, inside, alpha, whose, whole,
    theta, teacher, num_ids, theta_top, teacher_top, sum_top, scale, inverse_temperature,
    listed_theta, listed_teacher, listed_sum, least_teacher, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """log Σ with E[d] of the tilts −α and 2 − α: of π_θ²/q and of π_t²/q, each but for Z."""
    live = inside & alive(log_theta, log_teacher, whose)
    theta_log, low, high, _, _, _ = tile_moments(log_theta, log_teacher, live, -alpha)
    theta_mean = high - low
    teacher_log, low, high, _, _, _ = tile_moments(log_theta, log_teacher, live, 2 - alpha)
    teacher_mean = high - low
    if ROWS:
        if whole:
            row_theta, row_theta_mean, row_teacher, row_teacher_mean = row_pair(
                theta, teacher, num_ids, theta_top, teacher_top, scale, inverse_temperature,
                listed_theta, listed_teacher, listed_sum, least_teacher, whose, -alpha, 2 - alpha, BLOCK,
            )  # fmt: skip
            theta_log, of_list, of_row = shares(theta_log, row_theta)
            theta_mean = of_list * theta_mean + of_row * row_theta_mean
            teacher_log, of_list, of_row = shares(teacher_log, row_teacher)
            teacher_mean = of_list * teacher_mean + of_row * row_teacher_mean
    return theta_log, theta_mean, teacher_log, teacher_mean
