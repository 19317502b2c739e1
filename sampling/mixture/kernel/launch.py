"""The launch of the kernel for rows that share their settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sampling.config import MixtureConfig, SamplingConfig
from sampling.mixture.torch_draw import COLUMNS
from sampling.results import FALLBACK, FORCED, MIXED

METHODS = ("fixed", "kl_symmetry", "ess_balance", "entropy")
assert (MIXED, FORCED, FALLBACK) == (0, 1, 2)  # as sampling/mixture/kernel/mixture.py stores them
MAX_TARGET_TOP_P = 0.9999  # beyond it, what belongs to the trust region is decided by the rounding of its sum
MIN_TEMPERATURE = 1e-6  # below it 1/temperature leaves float32


@dataclass(frozen=True, slots=True)
class Tiles:
    """How many ids a program holds at once; powers of 2."""

    block: int = 4096  # of a row, in the two passes that every row needs; overlap_top_k to 2¹⁵
    row_block: int = 2048  # of a row, in the passes over supports that the candidates do not hold
    small: int = 512  # of a short list of candidates
    listed: int = 4096  # of the longest list; at most 2¹⁴
    num_warps: int = 16
    max_registers: int | None = None  # of a thread; less than the compiler wants lets more programs share a processor


DEFAULT_TILES = Tiles()


def supports(mixture: MixtureConfig, sampling: SamplingConfig) -> bool:
    """Whether the kernel implements these settings; if not, plain torch is used (sampling/mixture/torch_draw.py)."""
    too_wide = mixture.trust_region and mixture.target_top_p > MAX_TARGET_TOP_P
    return (
        mixture.alpha_method in METHODS
        and not too_wide
        and (sampling.temperature == 0 or sampling.temperature >= MIN_TEMPERATURE)
    )


def draw(
    theta_logits: Tensor,  # [B, V_theta] bfloat16, float16 or float32; copied unless a row's columns are contiguous
    teacher_logits: Tensor,  # [B, V_teacher] likewise, also of another dtype
    positions: Tensor,  # [B] int64; 0 is the first token
    keys: Tensor,  # [B] int64: see sampling.mixture.draw.row_key
    num_ids: int,  # ids that both models know; columns past them are padding
    mixture: MixtureConfig,
    sampling: SamplingConfig,
    tiles: Tiles = DEFAULT_TILES,
) -> tuple[Tensor, Tensor]:
    """Return tokens [B] int64 with their diagnostics [B, COLUMNS] float64; zeros where `finite` is 0. One launch.

    `supports` must hold of the settings.
    """
    from sampling.mixture.kernel.token import draw_tokens  # triton is only there where vLLM installed it

    theta_logits, teacher_logits = (
        logits if logits.stride(-1) == 1 else logits.contiguous() for logits in (theta_logits, teacher_logits)
    )
    num_rows, device = len(theta_logits), theta_logits.device
    tokens = torch.empty(num_rows, dtype=torch.int64, device=device)
    diagnostics = torch.empty(num_rows, len(COLUMNS), dtype=torch.float64, device=device)
    candidate_ids = torch.empty(num_rows, tiles.listed + 2 * tiles.small, dtype=torch.int32, device=device)
    if num_rows == 0:
        return tokens, diagnostics
    reals, seeds = _settings_on(device, mixture, sampling)
    both_bf16 = theta_logits.dtype == teacher_logits.dtype == torch.bfloat16
    kernel: Any = draw_tokens
    kernel[(num_rows,)](
        theta_logits, teacher_logits, theta_logits.stride(0), teacher_logits.stride(0), num_ids,
        min(mixture.overlap_top_k, num_ids), reals, min(sampling.top_k or num_ids, num_ids),
        seeds, keys, positions, candidate_ids, tokens, diagnostics,
        METHOD=METHODS.index(mixture.alpha_method),
        TRUST=mixture.trust_region,
        CHECK=mixture.stability_check,
        FORCE=mixture.force_first_token,
        AUTO=mixture.auto_fallback,
        GREEDY=sampling.temperature == 0,
        CUT=sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0,
        LOW_BITS=16 if both_bf16 else 0,
        BLOCK=tiles.block,
        ROW_BLOCK=tiles.row_block,
        SMALL=tiles.small,
        LIST=tiles.listed,
        MIN_CANDIDATES=min(256, tiles.block // 16),
        num_warps=tiles.num_warps,
        **({"maxnreg": tiles.max_registers} if tiles.max_registers else {}),
    )  # fmt: skip
    return tokens, diagnostics


@lru_cache(maxsize=64)
def _settings_on(device: torch.device, mixture: MixtureConfig, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
    """The settings [8] float64 with the seed [1] int64, on the device: passed as arguments they would be float32."""
    inverse_temperature = 1 / (sampling.temperature or 1.0)
    reals = [
        inverse_temperature,
        inverse_temperature * math.log2(math.e),
        mixture.alpha,
        mixture.target_top_p,
        mixture.stability_threshold_js,
        mixture.stability_threshold_overlap,
        sampling.top_p,
        math.log(sampling.min_p) if sampling.min_p else -math.inf,
    ]
    return torch.tensor(reals, dtype=torch.float64, device=device), torch.tensor([sampling.seed], device=device)
