"""The ending of a completion as one event, in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from sampling.config import MixtureConfig, SamplingConfig
from sampling.mixture.endings import merge_endings
from sampling.mixture.mixture import mix

NUM_IDS = 8
FREE = MixtureConfig.preset("exploratory")


def random_logits(dtype: torch.dtype, columns: int = NUM_IDS) -> torch.Tensor:
    return (4.0 * torch.randn(5, columns, generator=torch.Generator().manual_seed(0))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 1.7])
def test_the_probabilities_of_all_endings_add_up(dtype: torch.dtype, temperature: float) -> None:
    logits = random_logits(dtype)
    before = (logits.double() / (temperature or 1.0)).softmax(dim=-1)
    merged = merge_endings(logits.clone(), (6, 2, 3, 99), temperature)
    after = (merged.double() / (temperature or 1.0)).softmax(dim=-1)
    assert after[:, 6] == pytest.approx(before[:, [6, 2, 3]].sum(dim=-1), rel=1e-5)
    assert (after[:, [2, 3]] == 0).all()
    others = [0, 1, 4, 5, 7]
    assert after[:, others] == pytest.approx(before[:, others], rel=1e-5)
    assert merged.dtype == (dtype if dtype in (torch.float32, torch.float64) else torch.float32)


def test_impossible_and_broken_endings_stay_so() -> None:
    logits = torch.zeros(3, NUM_IDS)
    logits[0, [1, 2]], logits[1, 1], logits[2, 2] = -math.inf, math.nan, math.inf
    merged = merge_endings(logits, (1, 2), 1.0)
    assert merged[0, 1] == -math.inf
    assert merged[1, 1].isnan()  # counted as a row whose logits are no numbers
    assert merged[2, 1] == math.inf
    assert (merged[0, [0, 3]] == 0).all()


def test_two_models_that_end_by_different_ids_agree() -> None:
    """Theta ends by 6, the teacher by 2, each with probability 1/2; on all else they agree."""
    theta, teacher = torch.full((1, NUM_IDS), math.log(0.5 / 6)), torch.full((1, NUM_IDS), math.log(0.5 / 6))
    theta[0, 6], theta[0, 2] = math.log(0.5), -math.inf
    teacher[0, 2], teacher[0, 6] = math.log(0.5), -math.inf
    first, sampling = torch.tensor([False]), SamplingConfig()

    apart = mix(theta, teacher, first, NUM_IDS, FREE, sampling)
    assert float(apart.js) == pytest.approx(0.5 * math.log(2))
    assert apart.log_q[0, [2, 6]].exp().sum() == 0  # they never end: each ending is impossible for the other model

    together = mix(
        merge_endings(theta, (6, 2), 1.0), merge_endings(teacher, (6, 2), 1.0), first, NUM_IDS, FREE, sampling
    )
    assert float(together.js) == pytest.approx(0.0, abs=1e-9)
    assert float(together.overlap_mass) == pytest.approx(1.0)
    assert together.log_q.exp()[0].tolist() == pytest.approx([0.5 / 6, 0.5 / 6, 0, *[0.5 / 6] * 3, 0.5, 0.5 / 6])


def test_q_star_of_merged_endings() -> None:
    """q* by hand at α = 1/2: the event's probabilities are sums, mixed as one id's."""
    theta = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    teacher = torch.tensor([[0.4, 0.1, 0.2, 0.3]]).log()
    config = MixtureConfig.preset("exploratory", alpha_method="fixed", alpha=0.5)
    merged = (merge_endings(logits, (1, 3), 1.0) for logits in (theta, teacher))
    first, second = merged
    q = mix(first, second, torch.tensor([False]), 4, config, SamplingConfig()).log_q.exp()[0]
    weights = [math.sqrt(0.1 * 0.4), math.sqrt(0.6 * 0.4), math.sqrt(0.3 * 0.2), 0.0]
    assert q.tolist() == pytest.approx([weight / sum(weights) for weight in weights], rel=1e-6)
