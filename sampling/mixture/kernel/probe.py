"""The trial of the kernel on the device that it is to run on."""

from __future__ import annotations

import torch
from torch import Tensor

from sampling.config import MixtureConfig, SamplingConfig
from sampling.mixture.kernel.launch import COLUMNS, DEFAULT_TILES, Tiles, draw
from sampling.mixture.torch_draw import draw_torch

SCALES = (0.04, 1.0, 2.0, 4.0)  # of a row's logits: from nearly even, as dummy weights give, to peaked
TOLERANCE = 1e-5  # of 1 + the figure's size
# On a nearly even row a slope of 1e-4 tells alpha, and the kernel's 5e-8 nats are much of it; what is promised is
# kl_error, which is compared on its own.
ALPHA_TOLERANCE = 1e-3
MAX_STRAY = 1  # tokens: float32 sums move the border between two ids by 1e-6, and an even row's are 1e-5 wide
# of equally likely ids, of which bfloat16 makes many, torch counts any to the top k, the kernel the lowest
TIED = ("overlap_mass", "overlap_count")
SEED = 20
# Plainly, and with q* cut: a variant of its own. Of 200 ids a border of top-p is no matter of rounding.
TRIED = (SamplingConfig(seed=SEED), SamplingConfig(seed=SEED, top_k=200, top_p=0.9, min_p=0.01))


def disagreement(
    device: torch.device,
    num_ids: int,
    mixture: MixtureConfig,
    dtypes: tuple[torch.dtype, torch.dtype] = (torch.bfloat16, torch.bfloat16),
    tiles: Tiles = DEFAULT_TILES,
) -> str | None:
    """What the kernel draws or measures otherwise than plain torch on random logits; None when nothing.

    `dtypes`: of theta's logits, the teacher's. It also compiles the kernel for these settings, with and without cuts of
    q*, which is then done before the first row.
    """
    theta, teacher = (logits.to(device, dtype) for logits, dtype in zip(_logits(num_ids), dtypes, strict=True))
    positions = torch.arange(len(theta), device=device)
    keys = positions * 7919
    try:
        for sampling in TRIED:
            ours = draw(theta, teacher, positions, keys, num_ids, mixture, sampling, tiles)
            plain = draw_torch(theta, teacher, positions, keys, num_ids, mixture, sampling)
            if (wrong := _difference(ours, plain)) is not None:
                return wrong
        return None
    except Exception as error:  # whatever Triton's compiler or the driver says
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"


def _logits(num_ids: int) -> tuple[Tensor, Tensor]:
    """Rows [B, num_ids] bfloat16 that have half in common; in the last one the first half of the ids is impossible."""
    generator = torch.Generator().manual_seed(SEED)
    scales = torch.tensor([*SCALES, 2.0])[:, None]
    theta, own = (torch.randn(len(scales), num_ids, generator=generator) * scales for _ in range(2))
    teacher = theta / 2 + own / 2
    theta[-1, : num_ids // 2] = teacher[-1, : num_ids // 2] = -torch.inf
    return theta.bfloat16(), teacher.bfloat16()


def _difference(ours: tuple[Tensor, Tensor], plain: tuple[Tensor, Tensor]) -> str | None:
    tokens, diagnostics = (part.cpu() for part in ours)
    plain_tokens, plain_figures = (part.cpu() for part in plain)
    same = tokens == plain_tokens
    if int((~same).sum()) > MAX_STRAY:
        return f"tokens {tokens.tolist()} instead of {plain_tokens.tolist()}"
    for place, name in enumerate(COLUMNS):
        found, expected = diagnostics[same, place], plain_figures[same, place]
        tolerance = ALPHA_TOLERANCE if name == "alpha" else TOLERANCE
        if name not in TIED and not torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
            return f"{name} {found.tolist()} instead of {expected.tolist()}"
    return None
