"""The kernel's entry: one program a row, from the logits of two models to a token of q* with its diagnostics.

Passes over a row: one for both largest logits with their sums, one for JS that also lists the candidates. If these hold
the trust region, all the rest happens on them, in float64. If not (overflow), what follows sums the candidates in
float64, the row's other ids in float32: a pass for each step of Newton, one for the ESS, half of one for the draw.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sampling.mixture.kernel.mixture import NUM_DIAGNOSTICS, draw_from_mixture
from sampling.mixture.kernel.row import LN2, Cutoffs, Row, Settings
from sampling.mixture.kernel.scan import compare, slot_maxima
from sampling.mixture.kernel.threshold import key_to_logit, pair_thresholds, sortable, tile_threshold

MARGIN = tl.constexpr(1.00001)  # the slots' float32 sums err by less: the candidates never miss the trust region


@triton.jit(do_not_specialize=["top_k"])  # each user's top-k would be compiled anew
def draw_tokens(
    theta, teacher, theta_stride, teacher_stride, num_ids, overlap_top_k,
    reals,  # float64: 1/temperature, log2(e)/temperature, alpha, target_top_p, max_js, min_overlap, top_p, log min_p
    top_k,
    seeds, keys, positions,  # int64: [1], [B], [B]
    candidate_ids, tokens, diagnostics,  # int32 [B, LIST + 2·SMALL], int64 [B], float64 [B, NUM_DIAGNOSTICS]
    METHOD: tl.constexpr, TRUST: tl.constexpr, CHECK: tl.constexpr, FORCE: tl.constexpr, AUTO: tl.constexpr,
    GREEDY: tl.constexpr, CUT: tl.constexpr, LOW_BITS: tl.constexpr, BLOCK: tl.constexpr, ROW_BLOCK: tl.constexpr,
    SMALL: tl.constexpr, LIST: tl.constexpr, MIN_CANDIDATES: tl.constexpr,
):  # fmt: skip
    """Write the token and the diagnostics of this program's row; zeros where the logits are unusable."""
    row_index = tl.program_id(0).to(tl.int64)
    theta += row_index * theta_stride
    teacher += row_index * teacher_stride
    candidate_ids += row_index * (LIST + 2 * SMALL)
    tokens += row_index
    diagnostics += row_index * NUM_DIAGNOSTICS
    inverse_temperature, scale = tl.load(reals), tl.load(reals + 1).to(tl.float32)
    target_top_p = tl.load(reals + 3)

    slots = slot_maxima(theta, teacher, num_ids, scale, BLOCK)
    theta_maxima, theta_totals, teacher_maxima, teacher_totals, sum_maxima = slots
    theta_max, teacher_max = tl.max(theta_maxima, 0), tl.max(teacher_maxima, 0)
    sum_max = tl.max(sum_maxima, 0)
    teacher_weights = tl.exp2((teacher_maxima - teacher_max) * scale)
    theta_totals = theta_totals * tl.exp2((theta_maxima - theta_max) * scale)
    theta_total = tl.sum(theta_totals.to(tl.float64), 0)
    teacher_total = tl.sum((teacher_totals * teacher_weights).to(tl.float64), 0)
    usable = (theta_total > 0) & (teacher_total > 0) & (theta_max < float("inf")) & (teacher_max < float("inf"))
    if usable:
        # A slot's largest logit is one of the row's: at least as many ids reach a threshold as slots do
        theta_keys, teacher_keys = sortable(theta_maxima), sortable(teacher_maxima)
        fits = num_ids < 0  # the candidates hold the trust region
        count = tl.maximum(overlap_top_k, MIN_CANDIDATES)
        region_key = tl.full([], 2**31 - 1, tl.int32)
        if TRUST:
            target = (target_top_p * teacher_total * MARGIN).to(tl.float32)
            region_key = tile_threshold(teacher_keys, teacher_weights, target, 16)
            reached = tl.sum(tl.where(teacher_keys >= region_key, teacher_weights, 0.0), 0) >= target
            fits = reached & (tl.sum((teacher_keys >= region_key).to(tl.int32), 0) <= LIST // 2)
            count = tl.where(fits, overlap_top_k, count)
            region_key = tl.where(fits, region_key, 2**31 - 1)
        theta_key, teacher_key = pair_thresholds(theta_keys, teacher_keys, count, 16)
        theta_cutoff, teacher_cutoff = key_to_logit(theta_key), key_to_logit(tl.minimum(teacher_key, region_key))
        sum_cutoff = theta_max * 0.0 + float("inf")  # where the two others alone list the whole support
        if fits == 0:
            sum_keys = sortable(sum_maxima)
            sum_cutoff = key_to_logit(tile_threshold(sum_keys, tl.full([BLOCK], 1, tl.int32), count, 16))
        cutoffs = Cutoffs(theta_cutoff, teacher_cutoff, sum_cutoff)
        row = Row(theta, teacher, num_ids, theta_max, teacher_max, sum_max, scale, inverse_temperature)

        theta_log2 = tl.log2(theta_total.to(tl.float32))
        teacher_log2 = tl.log2(teacher_total.to(tl.float32))
        js, theta_rest, teacher_rest, num_common, num_candidates = compare(
            row, theta_log2, teacher_log2, cutoffs, candidate_ids, candidate_ids + LIST, not TRUST, LIST, SMALL, BLOCK
        )
        tl.debug_barrier()  # other threads wrote the list
        js = tl.minimum(tl.maximum(js, 0.0), LN2)
        fits = fits & (num_candidates <= LIST)
        if num_candidates <= LIST:  # the candidates' probabilities again, in float64
            theta_total = theta_rest * tl.exp2(theta_log2.to(tl.float64))
            teacher_total = teacher_rest * tl.exp2(teacher_log2.to(tl.float64))
            for start in range(0, num_candidates, SMALL):
                at = start + tl.arange(0, SMALL)
                ids = tl.load(candidate_ids + at, mask=at < num_candidates, other=0)
                logits = tl.load(theta + ids, mask=at < num_candidates, other=float("-inf")).to(tl.float64)
                theta_total += tl.sum(tl.exp((logits - theta_max.to(tl.float64)) * inverse_temperature), 0)
                logits = tl.load(teacher + ids, mask=at < num_candidates, other=float("-inf")).to(tl.float64)
                teacher_total += tl.sum(tl.exp((logits - teacher_max.to(tl.float64)) * inverse_temperature), 0)
        theta_log, teacher_log = tl.log(theta_total), tl.log(teacher_total)
        alpha, max_js, min_overlap = tl.load(reals + 2), tl.load(reals + 4), tl.load(reals + 5)
        top_p, log_min_p = tl.load(reals + 6), tl.load(reals + 7)
        settings = Settings(overlap_top_k, alpha, target_top_p, max_js, min_overlap, top_k, top_p, log_min_p)
        seed, key, position = tl.load(seeds), tl.load(keys + row_index), tl.load(positions + row_index)
        if TRUST:
            if fits & (num_candidates <= SMALL):
                draw_from_mixture(
                    row, theta_log, teacher_log, js, num_common, candidate_ids, num_candidates, False,
                    cutoffs, settings, seed, key, position, tokens, diagnostics,
                    METHOD, TRUST, CHECK, FORCE, AUTO, GREEDY, CUT, LOW_BITS, ROW_BLOCK, SMALL, False,
                )  # fmt: skip
            else:
                draw_from_mixture(
                    row, theta_log, teacher_log, js, num_common, candidate_ids, num_candidates, fits == 0,
                    cutoffs, settings, seed, key, position, tokens, diagnostics,
                    METHOD, TRUST, CHECK, FORCE, AUTO, GREEDY, CUT, LOW_BITS, ROW_BLOCK, LIST, True,
                )  # fmt: skip
        else:
            draw_from_mixture(
                row, theta_log, teacher_log, js, num_common, candidate_ids, num_candidates, fits == 0,
                cutoffs, settings, seed, key, position, tokens, diagnostics,
                METHOD, TRUST, CHECK, FORCE, AUTO, GREEDY, CUT, LOW_BITS, ROW_BLOCK, LIST, True,
            )  # fmt: skip
    else:
        tl.store(tokens, row_index * 0)
        tl.store(diagnostics + tl.arange(0, 32), tl.zeros([32], tl.float64), mask=tl.arange(0, 32) < NUM_DIAGNOSTICS)
