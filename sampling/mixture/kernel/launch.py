"""The launch of the kernel for rows that share their settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sampling.config import MixtureConfig, SamplingConfig
from sampling.results import FALLBACK, FORCED, MIXED

# What sampling.engine.drawer puts into a row, in the order sampling/mixture/kernel/token.py writes it.
COLUMNS = (
    "alpha", "kl_theta", "kl_teacher", "kl_error", "js", "overlap_mass", "overlap_count", "support_size", "entropy",
    "ess_ratio", "log_z", "logprob_q", "logprob_theta", "logprob_teacher", "q_error", "js_error", "mode",
    "finite", "constrained", "unstable",
)  # fmt: skip
METHODS = ("fixed", "kl_symmetry", "ess_balance", "entropy")
assert (MIXED, FORCED, FALLBACK) == (0, 1, 2)
MAX_TARGET_TOP_P = 0.9999  # beyond it, what belongs to the trust region is decided by the rounding of its sum
MIN_TEMPERATURE = 1e-6  # below it 1/temperature leaves float32


@dataclass(frozen=True, slots=True)
class Tiles:
    """How many ids a program holds at once; powers of 2."""

    block: int = 4096  # of a row, in the two passes that every row needs; overlap_top_k to 2¹⁵
    row_block: int = 2048  # of a row, in the passes over supports that the list does not hold
    small: int = 512  # of a short list
    listed: int = 4096  # of the longest list; at most 2¹⁴
    num_warps: int = 16
    max_registers: int | None = None  # of a thread; less than the compiler wants lets more programs share a processor


DEFAULT_TILES = Tiles()


def supports(mixture: MixtureConfig, sampling: SamplingConfig) -> bool:
    """Whether the kernel does what these settings say; if not, plain torch does (sampling/mixture/mixture.py)."""
    whole = mixture.trust_region and mixture.target_top_p > MAX_TARGET_TOP_P
    return not whole and (sampling.temperature == 0 or sampling.temperature >= MIN_TEMPERATURE)


def draw(
    theta_logits: Tensor,  # [B, V_theta] bfloat16, float16 or float32; a row's columns side by side
    teacher_logits: Tensor,  # [B, V_teacher] likewise, also of another dtype
    positions: Tensor,  # [B] int64; 0 is the first token
    keys: Tensor,  # [B] int64: see sampling.mixture.draw.row_key
    num_ids: int,  # ids that both models know; columns past them are padding
    mixture: MixtureConfig,
    sampling: SamplingConfig,
    tiles: Tiles = DEFAULT_TILES,
) -> tuple[Tensor, Tensor]:
    """Tokens [B] int64 with their figures [B, COLUMNS] float64; zeros where `finite` is 0. One launch.

    `supports` must hold of the settings.
    """
    from sampling.mixture.kernel.token import draw_tokens  # triton is only where vLLM brought it

    theta_logits, teacher_logits = _side_by_side(theta_logits), _side_by_side(teacher_logits)
    num_rows, device = len(theta_logits), theta_logits.device
    tokens = torch.empty(num_rows, dtype=torch.int64, device=device)
    diagnostics = torch.empty(num_rows, len(COLUMNS), dtype=torch.float64, device=device)
    places = torch.empty(num_rows, tiles.listed + 2 * tiles.small, dtype=torch.int32, device=device)
    if num_rows == 0:
        return tokens, diagnostics
    reals, seeds = _numbers(mixture, sampling, device)
    halves = theta_logits.dtype == teacher_logits.dtype == torch.bfloat16
    kernel: Any = draw_tokens
    kernel[(num_rows,)](
        theta_logits,
        teacher_logits,
        theta_logits.stride(0),
        teacher_logits.stride(0),
        num_ids,
        min(mixture.overlap_top_k, num_ids),
        reals,
        min(sampling.top_k or num_ids, num_ids),
        seeds,
        keys,
        positions,
        places,
        tokens,
        diagnostics,
        METHOD=METHODS.index(mixture.alpha_method),
        TRUST=mixture.trust_region,
        CHECK=mixture.stability_check,
        FORCE=mixture.force_first_token,
        AUTO=mixture.auto_fallback,
        GREEDY=sampling.temperature == 0,
        CUT=sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0,
        LOW_BITS=16 if halves else 0,
        BLOCK=tiles.block,
        ROW_BLOCK=tiles.row_block,
        SMALL=tiles.small,
        LIST=tiles.listed,
        HEAVY=min(256, tiles.block // 16),
        num_warps=tiles.num_warps,
        **({"maxnreg": tiles.max_registers} if tiles.max_registers else {}),
    )
    return tokens, diagnostics


@lru_cache(maxsize=64)
def _numbers(mixture: MixtureConfig, sampling: SamplingConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """The settings' numbers [8] float64 with the seed [1] int64, on the device: as arguments they would be float32."""
    inverse_temperature = 1 / (sampling.temperature or 1.0)
    limits = (mixture.stability_threshold_js, mixture.stability_threshold_overlap)
    cuts = (sampling.top_p, math.log(sampling.min_p) if sampling.min_p else -math.inf)
    reals = [
        inverse_temperature,
        inverse_temperature * math.log2(math.e),
        mixture.alpha,
        mixture.target_top_p,
        *limits,
        *cuts,
    ]
    return torch.tensor(reals, dtype=torch.float64, device=device), torch.tensor([sampling.seed], device=device)


def _side_by_side(logits: Tensor) -> Tensor:
    return logits if logits.stride(-1) == 1 else logits.contiguous()
