"""Tests of the solver of α."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from sampling import MixtureConfig
from sampling.config import AlphaMethod
from sampling.mixture.alpha import NEWTON_PASSES, solve_alpha
from sampling.mixture.distributions import entropy, expectation, renormalise
from tests.sampling.reference import alpha_of

METHODS: tuple[AlphaMethod, ...] = ("fixed", "kl_symmetry", "ess_balance", "entropy")
SOLVED: tuple[AlphaMethod, ...] = ("kl_symmetry", "ess_balance")
LOGITS = arrays(np.float64, st.tuples(st.just(2), st.integers(2, 40)), elements=st.floats(-1000, 1000, width=32))


def log_softmax(logits: Tensor) -> Tensor:
    return logits.double().log_softmax(dim=-1)


def pair(logits: np.ndarray) -> tuple[Tensor, Tensor]:
    rows = log_softmax(torch.from_numpy(logits))
    return rows[:1], rows[1:]


def mixture(theta: Tensor, teacher: Tensor, alpha: Tensor) -> Tensor:
    weight = alpha[:, None]
    return renormalise((1 - weight) * theta + weight * teacher, torch.ones_like(theta, dtype=torch.bool))


@given(LOGITS)
def test_alpha_lies_in_the_unit_interval(logits: np.ndarray) -> None:
    for method in METHODS:
        alpha = solve_alpha(*pair(logits), method, 0.25).item()
        assert 0 <= alpha <= 1


@given(LOGITS)
def test_kl_symmetry_holds_to_1e_6(logits: np.ndarray) -> None:
    theta, teacher = pair(logits)
    q = mixture(theta, teacher, solve_alpha(theta, teacher, "kl_symmetry", 0.5))
    kls = [expectation(q.exp(), q - model).item() for model in (theta, teacher)]
    assert abs(kls[0] - kls[1]) < 1e-6


@given(LOGITS)
def test_ess_is_balanced(logits: np.ndarray) -> None:
    theta, teacher = pair(logits)
    q = mixture(theta, teacher, solve_alpha(theta, teacher, "ess_balance", 0.5))
    log_inverse_ess = [(2 * model - q).logsumexp(-1).item() for model in (theta, teacher)]
    assert log_inverse_ess[0] == pytest.approx(log_inverse_ess[1], abs=1e-6)


@given(arrays(np.float64, st.tuples(st.just(2), st.integers(2, 40)), elements=st.floats(-20, 20)))
def test_agrees_with_a_float64_scipy_root(logits: np.ndarray) -> None:
    """Only where the curve is not flat: on equal distributions any α is right."""
    theta, teacher = pair(logits)
    if (theta - teacher).abs().max() < 1e-3:
        return
    for method in SOLVED:
        config = MixtureConfig.preset("exploratory", alpha_method=method)
        expected = alpha_of(theta.exp()[0].numpy(), teacher.exp()[0].numpy(), config)
        assert solve_alpha(theta, teacher, method, 0.5).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_equal_distributions_take_one_half(method: AlphaMethod) -> None:
    theta = log_softmax(torch.randn(4, 50, generator=torch.Generator().manual_seed(0)))
    assert solve_alpha(theta, theta.clone(), method, 0.5).tolist() == [0.5] * 4


@pytest.mark.parametrize("method", METHODS)
def test_one_shared_id_takes_one_half(method: AlphaMethod) -> None:
    one_hot = torch.tensor([[0.0, -math.inf, -math.inf]], dtype=torch.float64)
    assert solve_alpha(one_hot, one_hot, method, 0.5).item() == 0.5


@pytest.mark.parametrize("method", SOLVED)
def test_mirrored_distributions_take_one_half(method: AlphaMethod) -> None:
    theta = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log()
    assert solve_alpha(theta, theta.flip(-1), method, 0.1).item() == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("method", SOLVED)
def test_swapping_the_models_mirrors_alpha(method: AlphaMethod) -> None:
    generator = torch.Generator().manual_seed(1)
    theta, teacher = (log_softmax(torch.randn(16, 100, generator=generator) * 4) for _ in range(2))
    there, back = solve_alpha(theta, teacher, method, 0.5), solve_alpha(teacher, theta, method, 0.5)
    torch.testing.assert_close(there, 1 - back, atol=1e-9, rtol=0)


def test_two_ids_have_a_closed_form() -> None:
    """On {a, b} with log-odds s and t, q's log-odds x solve E_q[d] = 0: σ(x)·(t − s) = log((1+e^t)/(1+e^s))."""
    s, t = -1.0, 3.0
    theta, teacher = (log_softmax(torch.tensor([[odds, 0.0]])) for odds in (s, t))
    share = (math.log1p(math.exp(t)) - math.log1p(math.exp(s))) / (t - s)
    expected = (math.log(share / (1 - share)) - s) / (t - s)
    assert solve_alpha(theta, teacher, "kl_symmetry", 0.5).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("method", SOLVED)
def test_a_root_that_newton_alone_does_not_reach_is_found(method: AlphaMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that the bracketed solver finishes equal those that Newton finished; rows do not affect each other."""
    generator = torch.Generator().manual_seed(3)
    theta, teacher = (log_softmax(torch.randn(16, 100, generator=generator) * scale) for scale in (1.0, 30.0))
    whole = solve_alpha(theta, teacher, method, 0.5)
    alone = torch.cat([solve_alpha(theta[row, None], teacher[row, None], method, 0.5) for row in range(16)])
    assert torch.equal(whole, alone)
    for passes in (0, 2):
        assert passes < NEWTON_PASSES
        monkeypatch.setattr("sampling.mixture.alpha.NEWTON_PASSES", passes)
        torch.testing.assert_close(solve_alpha(theta, teacher, method, 0.5), whole, atol=1e-9, rtol=0)


def test_an_empty_support_takes_one_half_without_affecting_others() -> None:
    theta, teacher = (log_softmax(torch.randn(2, 9, generator=torch.Generator().manual_seed(seed))) for seed in (5, 6))
    expected = solve_alpha(theta[1:], teacher[1:], "kl_symmetry", 0.5)
    theta[0] = teacher[0] = -math.inf
    assert solve_alpha(theta, teacher, "kl_symmetry", 0.5).tolist() == [0.5, expected.item()]


def test_entropy_method_weighs_the_teacher_by_the_students_entropy() -> None:
    theta = log_softmax(torch.zeros(1, 8))
    teacher = log_softmax(torch.tensor([[0.0, 0.0] + [-1e9] * 6]))
    assert solve_alpha(theta, teacher, "entropy", 0.5).item() == pytest.approx(
        math.log(8) / (math.log(8) + math.log(2))
    )
    assert entropy(teacher).item() == pytest.approx(math.log(2))


def test_fixed_is_the_given_value() -> None:
    theta = log_softmax(torch.zeros(3, 8))
    assert solve_alpha(theta, theta, "fixed", 0.3).tolist() == pytest.approx([0.3] * 3)
