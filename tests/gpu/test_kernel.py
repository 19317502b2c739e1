"""Tests of the compiled kernel, against plain torch on the same device.

python -m pytest tests/gpu/test_kernel.py     # some 50 variants are compiled: minutes the first time
"""

from __future__ import annotations

import pytest
import torch

from sampling import MixtureConfig, SamplingConfig
from sampling.mixture.kernel.launch import DEFAULT_TILES, draw
from tests.sampling.mixture.kernel.cases import Case, cases, drawn
from tests.sampling.mixture.kernel.plain import TOLERANCE, compare

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CASES = {case.name: case for case in cases()}
FLOAT32_TOLERANCE = 3 * TOLERANCE  # ex2.approx errs by 2 units in the last place


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_draws_what_plain_torch_draws(case: Case) -> None:
    compare(case, drawn(case, "cuda"), "cuda", FLOAT32_TOLERANCE)


@pytest.mark.parametrize("scale", [0.04, 1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("preset", ["balanced", "exploratory"])
def test_a_vocabulary_of_151_936_with_real_tiles(preset: str, scale: float) -> None:
    """Rows from nearly uniform, as dummy weights give, to peaked."""
    generator = torch.Generator().manual_seed(int(scale * 100))
    theta, teacher = (torch.randn(32, 151_936, generator=generator) * scale for _ in range(2))
    teacher += theta / 2
    config = MixtureConfig.model_validate({"preset": preset, "auto_fallback": False})
    case = Case(
        f"{preset}, {scale}", theta.bfloat16(), teacher.bfloat16(), config, num_ids=151_936, tiles=DEFAULT_TILES
    )
    compare(case, drawn(case, "cuda"), "cuda", FLOAT32_TOLERANCE)


def test_the_same_rows_in_another_batch_give_the_same_bits() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    theta, teacher = (torch.randn(64, 151_936, generator=generator, device="cuda").bfloat16() * 3 for _ in range(2))
    positions, keys = torch.arange(64, device="cuda"), torch.arange(64, device="cuda") * 7919
    mixture, sampling = MixtureConfig.preset("balanced"), SamplingConfig(seed=1)
    tokens, diagnostics = draw(theta, teacher, positions, keys, 151_936, mixture, sampling)
    order = torch.randperm(64, device="cuda")[:40]
    again, same = draw(theta[order], teacher[order], positions[order], keys[order], 151_936, mixture, sampling)
    assert torch.equal(again, tokens[order])
    assert torch.equal(same.view(torch.int64), diagnostics[order].view(torch.int64))
