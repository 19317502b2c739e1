"""The merged support of two top-k replies: exact on shared ids, within the error bounds elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from sampling.served.support import (
    MergedSupport,
    PartialDistribution,
    js_error,
    merge,
    partial_distribution,
    q_error,
)

NUM_IDS = 60
LN_2 = math.log(2.0)


def distributions(seed: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return log_softmax(rng.normal(0, scale, NUM_IDS)), log_softmax(rng.normal(0, scale, NUM_IDS))


def top(logprobs: np.ndarray, k: int, temperature: float = 1.0, named: np.ndarray | None = None) -> PartialDistribution:
    ids = np.argsort(-logprobs, kind="stable")[:k]
    if named is not None:
        ids = np.concatenate([ids, np.setdiff1d(named, ids)])
    return partial_distribution(ids, logprobs[ids], k, NUM_IDS, temperature)


def test_all_ids_leave_no_tail() -> None:
    theta, teacher = distributions(0, 3.0)
    support = merge(top(theta, NUM_IDS), top(teacher, NUM_IDS))
    np.testing.assert_array_equal(support.ids, np.arange(NUM_IDS))
    np.testing.assert_allclose(support.theta[:-1], theta)
    np.testing.assert_allclose(support.teacher[:-1], teacher)
    assert support.theta[-1] == support.teacher[-1] == -math.inf
    assert (support.theta_tail, support.teacher_tail, support.theta_only, support.teacher_only) == (0, 0, 0, 0)
    assert js_error(support) == 0
    assert q_error(support, 0.4, -1.0, None) == 0


def test_ids_that_only_one_model_has_count_to_the_tail() -> None:
    logprobs = np.log([0.5, 0.3, 0.2])
    side = partial_distribution(np.array([1, 99, 3]), logprobs, 3, num_ids=10, temperature=1.0)
    assert side.ids.tolist() == [1, 3]
    assert side.log_tail == pytest.approx(math.log(0.3))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_endings_are_one_event(temperature: float) -> None:
    """Ids 4 and 99 end a completion, too; 99 is missing in the other model."""
    logprobs = np.log([0.4, 0.3, 0.2, 0.1])
    side = partial_distribution(np.array([4, 1, 99, 7]), logprobs, 3, 10, temperature, eos_ids=(7, 4, 99, 8))
    assert side.ids.tolist() == [1, 7]
    weights = np.exp(logprobs / temperature)
    assert np.exp(side.log_weights) == pytest.approx([weights[1], weights[0] + weights[2] + weights[3]])
    assert side.is_top.tolist() == [True, True]
    assert side.tail_share < 1e-2
    without = partial_distribution(np.array([1]), logprobs[1:2], 1, 10, temperature, eos_ids=(7, 4))
    assert without.ids.tolist() == [1]  # all endings are in the tail


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 1.5, 4.0])
@pytest.mark.parametrize("k", [1, 5, 20, 59])
def test_the_tail_is_no_smaller_than_the_true_one(temperature: float, k: int) -> None:
    for seed in range(20):
        logprobs, _ = distributions(seed, 2.0)
        side = top(logprobs, k, temperature)
        true = logsumexp(np.delete(logprobs, side.ids) / temperature)
        assert side.log_tail >= true - 1e-9
        if temperature == 1.0:
            assert math.exp(side.log_tail) == pytest.approx(math.exp(true), abs=1e-6)


def coarse_js(support: MergedSupport) -> float:
    """JS of the two distributions in which all ids that one model did not return are one symbol."""
    both = ~np.isneginf(support.theta[:-1]) & ~np.isneginf(support.teacher[:-1])
    sides = []
    for column in (support.theta, support.teacher):
        p = np.exp(column - logsumexp(column))
        sides.append(np.append(p[:-1][both], p[:-1][~both].sum() + p[-1]))
    return js_of(*sides)


def js_of(p: np.ndarray, q: np.ndarray) -> float:
    def entropy(x: np.ndarray) -> float:
        return float(-sum(v * math.log(v) for v in x if v > 0))

    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 8.0), k=st.integers(1, NUM_IDS), m=st.integers(1, NUM_IDS))
def test_js_lies_within_its_error(seed: int, scale: float, k: int, m: int) -> None:
    theta, teacher = distributions(seed, scale)
    support = merge(top(theta, k), top(teacher, m))
    exact = js_of(np.exp(theta), np.exp(teacher))
    assert -1e-9 <= exact - coarse_js(support) <= js_error(support) + 1e-6
    assert js_error(support) <= LN_2


def drawn(support: MergedSupport, alpha: float, region: np.ndarray) -> tuple[np.ndarray, float]:
    """q* [NUM_IDS] as it is drawn from: on the returned ids of the region."""
    theta, teacher = (np.full(NUM_IDS, -np.inf), np.full(NUM_IDS, -np.inf))
    theta[support.ids], teacher[support.ids] = support.theta[:-1], support.teacher[:-1]
    scores = np.where(region, weighted(theta, teacher, alpha), -np.inf)
    log_z = float(logsumexp(scores))
    return np.exp(scores - log_z) if np.isfinite(log_z) else scores, log_z


def weighted(theta: np.ndarray, teacher: np.ndarray, alpha: float) -> np.ndarray:
    left = np.zeros_like(theta) if alpha == 1 else (1 - alpha) * theta
    return left + (np.zeros_like(teacher) if alpha == 0 else alpha * teacher)


@given(
    seed=st.integers(0, 10_000), scale=st.floats(0.1, 6.0), k=st.integers(2, NUM_IDS), m=st.integers(2, NUM_IDS),
    alpha=st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), top_p=st.sampled_from([None, 0.5, 0.95]), named=st.booleans(),
)  # fmt: skip
def test_q_lies_within_its_error(
    seed: int, scale: float, k: int, m: int, alpha: float, top_p: float | None, named: bool
) -> None:
    theta, teacher = distributions(seed, scale)
    tops = [np.argsort(-p, kind="stable")[:n] for p, n in ((theta, k), (teacher, m))]
    support = merge(top(theta, k, named=tops[1] if named else None), top(teacher, m, named=tops[0] if named else None))
    region = np.ones(NUM_IDS, dtype=bool)
    if top_p is not None:
        order = np.argsort(-teacher, kind="stable")
        mass = np.cumsum(np.exp(teacher)[order])
        region = np.zeros(NUM_IDS, dtype=bool)
        region[order[: int(np.searchsorted(mass, top_p)) + 1]] = True
    likeliest = np.zeros(NUM_IDS, dtype=bool)
    likeliest[tops[1]] = True
    q, log_z = drawn(support, alpha, region if top_p is None else region & likeliest)
    if not np.isfinite(log_z):
        return  # nothing can be drawn: the mixture falls back
    scores = np.where(region, weighted(theta, teacher, alpha), -np.inf)
    exact = np.exp(scores - logsumexp(scores))
    distance = 0.5 * np.abs(q - exact).sum()
    error = q_error(support, alpha, log_z, top_p)
    assert distance <= error + 1e-6
    if named and top_p is not None and support.teacher_top_share >= top_p + 1e-6:
        assert error == 0  # exact: both returned the whole region


def test_an_impossible_id_among_the_likeliest_leaves_a_finite_tail() -> None:
    ids, logprobs = np.arange(3), np.array([np.log(0.5), np.log(0.5), -np.inf])
    for temperature in (0.0, 0.5, 1.0, 1.5):
        assert not np.isnan(partial_distribution(ids, logprobs, 3, 440, temperature).log_tail)


def test_a_tail_is_heavier_at_a_higher_temperature() -> None:
    logits = np.random.default_rng(0).normal(size=20_000)
    logits[:20] += 12
    logprobs = logits - logsumexp(logits)
    shares = [
        partial_distribution(np.arange(20), logprobs[:20], 20, 20_000, temperature).tail_share
        for temperature in (0.5, 1, 1.5)
    ]
    assert abs(shares[1] - np.exp(logprobs[20:]).sum()) < 1e-6
    true = np.exp(logprobs[20:] / 1.5).sum() / np.exp(logprobs / 1.5).sum()
    assert shares[0] < shares[1] < true <= shares[2]
