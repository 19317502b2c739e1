"""One program a row: from the logits of two models to a token of q* with its figures.

Passes over a row: one for both largest logits with their sums, one for JS that also lists the ids which matter. If the
list holds the trust region, all the rest happens on it, in float64. If not, what follows sums the list in float64, the
row's other ids in float32: a pass for each step of Newton, one for the ESS, half of one for the draw.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.mixture import draw_from_mixture
from sampling.mixture.kernel.moments import LN2
from sampling.mixture.kernel.order import least_logit, pair_thresholds, sortable, tile_threshold
from sampling.mixture.kernel.scan import compare, slots_of

NUM_DIAGNOSTICS = tl.constexpr(20)
SURE = tl.constexpr(1.00001)  # the slots' float32 sums err by less: a list never misses the trust region


@triton.jit(do_not_specialize=["most"])  # each user's top-k would be compiled anew
def draw_tokens(
    theta, teacher, theta_stride, teacher_stride, num_ids, top_k,
    reals,  # float64: 1/temperature, log2(e)/temperature, fixed α, the region's top-p, two limits, top-p, log min-p
    most,  # top-k
    seeds, keys, positions,  # int64: [1], [B], [B]
    places, tokens, diagnostics,  # int32 [B, LIST + 2·SMALL], int64 [B], float64 [B, NUM_FIGURES]
    METHOD: tl.constexpr, TRUST: tl.constexpr, CHECK: tl.constexpr, FORCE: tl.constexpr, AUTO: tl.constexpr,
    GREEDY: tl.constexpr, CUT: tl.constexpr, LOW_BITS: tl.constexpr, BLOCK: tl.constexpr, ROW_BLOCK: tl.constexpr,
    SMALL: tl.constexpr, LIST: tl.constexpr, HEAVY: tl.constexpr,
):  # fmt: skip
    """A token with its figures for the row of this program; zeros where the logits are unusable."""
    row = tl.program_id(0).to(tl.int64)
    theta += row * theta_stride
    teacher += row * teacher_stride
    places += row * (LIST + 2 * SMALL)
    tokens += row
    diagnostics += row * NUM_DIAGNOSTICS
    inverse_temperature, scale = tl.load(reals), tl.load(reals + 1).to(tl.float32)
    top_p = tl.load(reals + 3)

    theta_tops, theta_totals, teacher_tops, teacher_totals, sum_tops = slots_of(theta, teacher, num_ids, scale, BLOCK)
    theta_top, teacher_top = tl.max(theta_tops, 0), tl.max(teacher_tops, 0)
    sum_top = tl.max(sum_tops, 0)
    teacher_weights = tl.exp2((teacher_tops - teacher_top) * scale)
    theta_totals = theta_totals * tl.exp2((theta_tops - theta_top) * scale)
    theta_total = tl.sum(theta_totals.to(tl.float64), 0)
    teacher_total = tl.sum((teacher_totals * teacher_weights).to(tl.float64), 0)
    usable = (theta_total > 0) & (teacher_total > 0) & (theta_top < float("inf")) & (teacher_top < float("inf"))
    if usable:
        # A slot's largest logit is one of the row's: what many slots reach, as many ids do
        theta_keys, teacher_keys = sortable(theta_tops), sortable(teacher_tops)
        fits = num_ids < 0
        count = tl.maximum(top_k, HEAVY)
        nucleus_key = tl.full([], 2**31 - 1, tl.int32)
        if TRUST:
            target = (top_p * teacher_total * SURE).to(tl.float32)
            nucleus_key = tile_threshold(teacher_keys, teacher_weights, target, 16)
            held = tl.sum(tl.where(teacher_keys >= nucleus_key, teacher_weights, 0.0), 0) >= target
            fits = held & (tl.sum((teacher_keys >= nucleus_key).to(tl.int32), 0) <= LIST // 2)
            count = tl.where(fits, top_k, count)
            nucleus_key = tl.where(fits, nucleus_key, 2**31 - 1)
        theta_key, teacher_key = pair_thresholds(theta_keys, teacher_keys, count, 16)
        listed_theta, listed_teacher = least_logit(theta_key), least_logit(tl.minimum(teacher_key, nucleus_key))
        listed_sum = theta_top * 0.0 + float("inf")  # where the list holds the whole support as it is
        if fits == 0:
            sum_keys = sortable(sum_tops)
            listed_sum = least_logit(tile_threshold(sum_keys, tl.full([BLOCK], 1, tl.int32), count, 16))

        theta_log2 = tl.log2(theta_total.to(tl.float32))
        teacher_log2 = tl.log2(teacher_total.to(tl.float32))
        js, theta_rest, teacher_rest, num_common, num_listed = compare(
            theta, teacher, num_ids, theta_top, teacher_top, scale, theta_log2, teacher_log2,
            listed_theta, listed_teacher, listed_sum, places, places + LIST, not TRUST, LIST, SMALL, BLOCK,
        )  # fmt: skip
        tl.debug_barrier()  # other threads wrote the list
        js = tl.minimum(tl.maximum(js, 0.0), LN2)
        fits = fits & (num_listed <= LIST)
        if num_listed <= LIST:  # the likeliest ids' probabilities again, in float64
            theta_total = theta_rest * tl.exp2(theta_log2.to(tl.float64))
            teacher_total = teacher_rest * tl.exp2(teacher_log2.to(tl.float64))
            for start in range(0, num_listed, SMALL):
                at = start + tl.arange(0, SMALL)
                ids = tl.load(places + at, mask=at < num_listed, other=0)
                logits = tl.load(theta + ids, mask=at < num_listed, other=float("-inf")).to(tl.float64)
                theta_total += tl.sum(tl.exp((logits - theta_top.to(tl.float64)) * inverse_temperature), 0)
                logits = tl.load(teacher + ids, mask=at < num_listed, other=float("-inf")).to(tl.float64)
                teacher_total += tl.sum(tl.exp((logits - teacher_top.to(tl.float64)) * inverse_temperature), 0)
        theta_log, teacher_log = tl.log(theta_total), tl.log(teacher_total)
        fixed, max_js, min_overlap = tl.load(reals + 2), tl.load(reals + 4), tl.load(reals + 5)
        mass, log_share = tl.load(reals + 6), tl.load(reals + 7)
        seed, key, position = tl.load(seeds), tl.load(keys + row), tl.load(positions + row)
        if TRUST:
            if fits & (num_listed <= SMALL):
                draw_from_mixture(
                    theta, teacher, num_ids, theta_top, teacher_top, sum_top,
                    scale, inverse_temperature, theta_log, teacher_log, js, num_common, places, num_listed, False,
                    listed_theta, listed_teacher, listed_sum, top_k, fixed, top_p, max_js, min_overlap,
                    most, mass, log_share, seed, key, position, tokens, diagnostics,
                    METHOD, TRUST, CHECK, FORCE, AUTO, GREEDY, CUT, LOW_BITS, ROW_BLOCK, SMALL, False,
                )  # fmt: skip
            else:
                draw_from_mixture(
                    theta, teacher, num_ids, theta_top, teacher_top, sum_top,
                    scale, inverse_temperature, theta_log, teacher_log, js, num_common, places, num_listed, fits == 0,
                    listed_theta, listed_teacher, listed_sum, top_k, fixed, top_p, max_js, min_overlap,
                    most, mass, log_share, seed, key, position, tokens, diagnostics,
                    METHOD, TRUST, CHECK, FORCE, AUTO, GREEDY, CUT, LOW_BITS, ROW_BLOCK, LIST, True,
                )  # fmt: skip
        else:
            draw_from_mixture(
                theta, teacher, num_ids, theta_top, teacher_top, sum_top,
                scale, inverse_temperature, theta_log, teacher_log, js, num_common, places, num_listed, fits == 0,
                listed_theta, listed_teacher, listed_sum, top_k, fixed, top_p, max_js, min_overlap,
                most, mass, log_share, seed, key, position, tokens, diagnostics,
                METHOD, TRUST, CHECK, FORCE, AUTO, GREEDY, CUT, LOW_BITS, ROW_BLOCK, LIST, True,
            )  # fmt: skip
    else:
        tl.store(tokens, row * 0)
        tl.store(diagnostics + tl.arange(0, 32), tl.zeros([32], tl.float64), mask=tl.arange(0, 32) < NUM_DIAGNOSTICS)
