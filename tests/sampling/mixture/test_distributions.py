"""Tests of entropies, divergences and supports against closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import entropy as scipy_entropy

from sampling.mixture.distributions import (
    ascending,
    compact,
    entropy,
    expectation,
    js_divergence,
    least_of_top_p,
    min_p_support,
    overlap,
    renormalise,
    softmax,
    top_k_support,
    top_p_support,
)

P = torch.tensor([[0.5, 0.25, 0.125, 0.125, 0.0]], dtype=torch.float64)
Q = torch.tensor([[0.125, 0.25, 0.5, 0.0, 0.125]], dtype=torch.float64)
ONE_HOT = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)


def random_pair(num_ids: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 8, num_ids, generator=generator) * 3
    logprobs = softmax(logits)[0]
    return logprobs[0], logprobs[1]


def test_softmax_divides_by_the_temperature() -> None:
    logits = torch.tensor([[0.0, math.log(4)]])
    torch.testing.assert_close(softmax(logits)[1], torch.tensor([[0.2, 0.8]], dtype=torch.float64))
    torch.testing.assert_close(softmax(logits, 2.0)[1], torch.tensor([[1 / 3, 2 / 3]], dtype=torch.float64))
    torch.testing.assert_close(softmax(logits, 0), softmax(logits, 1))


def test_softmax_returns_both_and_does_not_change_the_logits() -> None:
    logits = torch.tensor([[0.0, math.log(4), -math.inf], [1000.0, -1000.0, 0.0]], dtype=torch.float64)
    kept = logits.clone()
    logprobs, probs = softmax(logits)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1), rtol=0, atol=1e-15)
    torch.testing.assert_close(probs, logits.softmax(-1), rtol=0, atol=1e-15)
    assert torch.equal(logits, kept)


def test_entropy_kl_and_js_equal_scipy() -> None:
    p, q = random_pair()
    ps, qs = p.exp().numpy(), q.exp().numpy()
    np.testing.assert_allclose(entropy(p), scipy_entropy(ps, axis=1), rtol=1e-12)
    np.testing.assert_allclose(expectation(p.exp(), p - q), rel_entr(ps, qs).sum(1), rtol=1e-12)
    middle = (ps + qs) / 2
    expected = (rel_entr(ps, middle).sum(1) + rel_entr(qs, middle).sum(1)) / 2
    np.testing.assert_allclose(js_divergence(p, q, p.exp(), q.exp()), expected, rtol=1e-12)


def test_zero_probabilities() -> None:
    p, q, one_hot = P.log(), Q.log(), ONE_HOT.log()
    assert entropy(one_hot).item() == 0
    assert expectation(P, p - p).item() == 0
    assert expectation(P, p - q).item() == math.inf
    assert js_divergence(p, p, P, P).item() == pytest.approx(0, abs=1e-15)
    assert js_divergence(p, one_hot, P, ONE_HOT).item() == pytest.approx(math.log(2), abs=1e-15)
    assert 0 < js_divergence(p, q, P, Q).item() < math.log(2)


def test_overlap_is_the_smaller_mass_of_the_shared_top_ids() -> None:
    mass, count = overlap(P, Q, 2)  # {0, 1} and {2, 1}
    assert (mass.item(), count.item()) == (0.25, 1)
    mass, count = overlap(P, Q, 3)  # {0, 1, 2 or 3} and {2, 1, 0 or 4}
    assert count.item() >= 1
    mass, count = overlap(P, ONE_HOT, 5)  # an id of probability zero is in no top-k set
    assert (mass.item(), count.item()) == (0, 0)
    mass, count = overlap(P, P, 99)
    assert (mass.item(), count.item()) == (1, 4)


def test_renormalise() -> None:
    inside = torch.tensor([[True, True, False, False, False]])
    torch.testing.assert_close(
        renormalise(P.log(), inside).exp()[0, :2], torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    )
    assert (renormalise(ONE_HOT.log(), inside) == -math.inf).all()


@pytest.mark.parametrize(
    ("top_p", "size"), [(1e-9, 1), (0.5, 1), (0.500001, 2), (0.75, 2), (0.8, 4), (0.9, 4), (1.0, 4)]
)
def test_top_p_takes_the_smallest_set_with_its_ties(top_p: float, size: int) -> None:
    support = top_p_support(P, top_p)
    assert support.sum().item() == size
    assert P[support].sum().item() >= top_p - 1e-12
    order = torch.tensor([4, 3, 2, 1, 0])
    assert (top_p_support(P[:, order], top_p) == support[:, order]).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("scale", [1.0, 4.0])  # at 1 the sets exceed HEAD ids, at 4 they do not
def test_the_least_logit_of_top_p_determines_its_set(temperature: float, scale: float) -> None:
    logits = torch.randn(8, 500, generator=torch.Generator().manual_seed(2)) * scale
    logits[0] = 0.0  # all alike: all are in
    logits[1, 1:] = -math.inf
    logprobs, probs = softmax(logits, temperature)
    ranked, highest = ascending(logits), logprobs.amax(dim=-1)
    for top_p in (1e-9, 0.3, 0.95, 0.9999):
        least = least_of_top_p(ranked, highest, temperature, top_p)
        assert torch.equal(logits >= least, top_p_support(probs, top_p))


def test_ascending_puts_nan_last() -> None:
    values = torch.tensor([[math.inf, -1.0, math.nan], [2.0, -math.inf, 1.0]])
    assert ascending(values)[1].tolist() == [-math.inf, 1.0, 2.0]
    assert ascending(values)[0, :2].tolist() == [-1.0, math.inf]
    assert ascending(values)[0, 2].isnan()
    assert values[1].tolist() == [2.0, -math.inf, 1.0]


def test_top_k_and_min_p() -> None:
    assert top_k_support(P.log(), 1).tolist() == [[True, False, False, False, False]]
    assert top_k_support(P.log(), 3).sum().item() == 4  # a tie for the third id
    assert top_k_support(P.log(), 99).sum().item() == 4  # never an id of probability zero
    assert min_p_support(P.log(), 0.5).sum().item() == 2
    assert min_p_support(P.log(), 1.0).sum().item() == 1


def test_compact_keeps_the_ids_in_order() -> None:
    support = torch.tensor([[True, False, True, True], [False, False, False, True], [False] * 4])
    ids, inside = compact(support)
    assert ids.tolist() == [[0, 2, 3], [3, 0, 0], [0, 0, 0]]
    assert inside.tolist() == [[True] * 3, [True, False, False], [False] * 3]
