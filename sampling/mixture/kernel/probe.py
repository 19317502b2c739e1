"""The self-test of the kernel on the device it is to run on: random logits, compared with plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from sampling.config import MixtureConfig, SamplingConfig
from sampling.mixture.kernel.launch import DEFAULT_TILES, Tiles, draw
from sampling.mixture.torch_draw import COLUMNS, draw_torch

SCALES = (0.04, 1.0, 2.0, 4.0)  # of a row's logits: from nearly uniform, as dummy weights give, to peaked
TOLERANCE = 1e-5  # of 1 + the diagnostic's size
# On a nearly uniform row α is determined by a slope of 1e-4, and the kernel's 5e-8 nats are much of it; what is
# promised is kl_error, which is compared on its own.
ALPHA_TOLERANCE = 1e-3
MAX_DIFFERENT = 1  # tokens: float32 sums move the border between two ids by 1e-6, and a uniform row's are 1e-5 wide
# of equally likely ids, of which bfloat16 makes many, torch counts any to the top k, the kernel the lowest
TIED = ("overlap_mass", "overlap_count")
SEED = 20
# Without and with cuts of q*: two compiled variants. Of 200 ids a border of top-p is no matter of rounding.
TRIED = (SamplingConfig(seed=SEED), SamplingConfig(seed=SEED, top_k=200, top_p=0.9, min_p=0.01))


def disagreement(
    device: torch.device,
    num_ids: int,
    mixture: MixtureConfig,
    dtypes: tuple[torch.dtype, torch.dtype] = (torch.bfloat16, torch.bfloat16),
    tiles: Tiles = DEFAULT_TILES,
) -> str | None:
    """Return the first difference between the kernel and plain torch on random logits, None when there is none.

    `dtypes`: of theta's logits, the teacher's. This also compiles the kernel for these settings, with and without cuts
    of q*, before the first row needs it.
    """
    theta, teacher = (logits.to(device, dtype) for logits, dtype in zip(_logits(num_ids), dtypes, strict=True))
    positions = torch.arange(len(theta), device=device)
    keys = positions * 7919
    try:
        for sampling in TRIED:
            found = draw(theta, teacher, positions, keys, num_ids, mixture, sampling, tiles)
            expected = draw_torch(theta, teacher, positions, keys, num_ids, mixture, sampling)
            if (difference := _difference(found, expected)) is not None:
                return difference
        return None
    except Exception as error:  # any error of Triton's compiler or of the driver
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"


def _logits(num_ids: int) -> tuple[Tensor, Tensor]:
    """Rows [B, num_ids] bfloat16 that have half in common; in the last one the first half of the ids is −inf."""
    generator = torch.Generator().manual_seed(SEED)
    scales = torch.tensor([*SCALES, 2.0])[:, None]
    theta, noise = (torch.randn(len(scales), num_ids, generator=generator) * scales for _ in range(2))
    teacher = theta / 2 + noise / 2
    theta[-1, : num_ids // 2] = teacher[-1, : num_ids // 2] = -torch.inf
    return theta.bfloat16(), teacher.bfloat16()


def _difference(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> str | None:
    tokens, diagnostics = (tensor.cpu() for tensor in found)
    expected_tokens, expected_diagnostics = (tensor.cpu() for tensor in expected)
    same = tokens == expected_tokens
    if int((~same).sum()) > MAX_DIFFERENT:
        return f"tokens {tokens.tolist()} instead of {expected_tokens.tolist()}"
    for column, name in enumerate(COLUMNS):
        values, references = diagnostics[same, column], expected_diagnostics[same, column]
        tolerance = ALPHA_TOLERANCE if name == "alpha" else TOLERANCE
        if name not in TIED and not torch.allclose(values, references, rtol=tolerance, atol=tolerance):
            return f"{name} {values.tolist()} instead of {references.tolist()}"
    return None
