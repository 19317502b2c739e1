"""Tests of the mixture of one position, with its corner cases."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from sampling import MixtureConfig, SamplingConfig
from sampling.config import PresetName
from sampling.mixture.distributions import overlap
from sampling.mixture.mixture import Mixture, kl_error, mix
from sampling.results import FALLBACK, FORCED, MIXED
from tests.sampling.reference import q_star

NUM_IDS = 300
INF = math.inf


def logits(seed: int, batch: int = 32, width: int = NUM_IDS, scale: float = 2.0) -> Tensor:
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(seed)) * scale


def mixed(
    theta: Tensor,
    teacher: Tensor,
    *,
    first: bool = False,
    num_ids: int | None = None,
    temperature: float = 1.0,
    preset: Any = "exploratory",
    **overrides: Any,
) -> Mixture:
    config = MixtureConfig.preset(preset, **overrides)
    rows = torch.full((len(theta),), first)
    width = min(theta.shape[-1], teacher.shape[-1]) if num_ids is None else num_ids
    return spread(mix(theta, teacher, rows, width, config, SamplingConfig(temperature=temperature)))


def spread(mixture: Mixture) -> Mixture:
    """The same with q* over all ids [B, V], −inf outside the trust region."""
    q = torch.zeros_like(mixture.log_theta).scatter_add(-1, mixture.ids, mixture.log_q.exp())
    return replace(mixture, log_q=q.log())


def row(*values: float) -> Tensor:
    return torch.tensor([values])


@pytest.mark.parametrize("method", ["kl_symmetry", "ess_balance", "entropy", "fixed"])
@pytest.mark.parametrize("preset", ["conservative", "balanced", "exploratory"])
def test_equals_the_reference(method: str, preset: PresetName) -> None:
    theta, teacher = logits(0), logits(0) + logits(1, scale=1.0)
    got = mixed(theta, teacher, preset=preset, alpha_method=method, alpha=0.3)
    config = MixtureConfig.preset(preset, alpha_method=method, alpha=0.3)
    for index in range(len(theta)):
        expected = q_star(theta[index].double().numpy(), teacher[index].double().numpy(), config, first=False)
        np.testing.assert_allclose(got.log_q[index].exp().numpy(), expected, atol=1e-9)


def test_alpha_zero_is_theta_and_one_the_teacher() -> None:
    theta, teacher = logits(2), logits(3)
    at_zero = mixed(theta, teacher, alpha_method="fixed", alpha=0.0)
    at_one = mixed(theta, teacher, alpha_method="fixed", alpha=1.0)
    torch.testing.assert_close(at_zero.log_q, theta.double().log_softmax(-1), atol=1e-12, rtol=0)
    torch.testing.assert_close(at_one.log_q, teacher.double().log_softmax(-1), atol=1e-12, rtol=0)


def test_alpha_zero_and_one_are_exact_where_the_other_models_probability_is_zero() -> None:
    theta, teacher = row(0.0, 1.0, -INF), row(-INF, 2.0, 0.0)
    at_zero = mixed(theta, teacher, alpha_method="fixed", alpha=0.0)
    at_one = mixed(theta, teacher, alpha_method="fixed", alpha=1.0)
    torch.testing.assert_close(at_zero.log_q, theta.double().log_softmax(-1))
    torch.testing.assert_close(at_one.log_q, teacher.double().log_softmax(-1))
    assert at_one.kl_theta.item() == INF
    assert at_one.kl_teacher.item() == 0


@pytest.mark.parametrize("preset", ["balanced", "exploratory"])
def test_at_the_ends_q_is_the_model_to_the_last_bit(preset: str) -> None:
    theta, teacher = logits(2), logits(3)
    assert not mixed(theta, teacher, preset=preset, alpha_method="fixed", alpha=1.0).kl_teacher.any()
    at_zero = mixed(theta, teacher, preset=preset, alpha_method="fixed", alpha=0.0, auto_fallback=False)
    assert not at_zero.kl_theta.any()


@pytest.mark.parametrize("preset", ["balanced", "exploratory"])
def test_equal_models_change_nothing(preset: str) -> None:
    same = logits(4)
    got = mixed(same, same.clone(), preset=preset)
    assert (got.alpha == 0.5).all()
    assert (got.mode == MIXED).all()
    assert kl_error(got).max() < 1e-12
    assert got.js.max() < 1e-12
    torch.testing.assert_close(got.ess_ratio, torch.ones(32, dtype=torch.float64))
    if preset == "exploratory":
        torch.testing.assert_close(got.log_q, same.double().log_softmax(-1), atol=1e-12, rtol=0)


def test_kl_error_and_ess_on_every_mixed_row() -> None:
    theta, teacher = logits(5, batch=64, scale=6.0), logits(6, batch=64, scale=6.0)
    for preset in ("balanced", "exploratory"):
        got = mixed(theta, teacher, preset=preset, auto_fallback=False)
        assert (got.mode == MIXED).all()
        assert kl_error(got).max() < 1e-9
    balanced = mixed(theta, teacher, alpha_method="ess_balance")
    torch.testing.assert_close(balanced.ess_ratio, torch.ones(64, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("preset", ["conservative", "balanced", "exploratory"])
@pytest.mark.parametrize("cuts", [{}, {"top_k": 7, "top_p": 0.9, "min_p": 0.01}])
def test_log_z_makes_q_of_the_two_models(preset: PresetName, cuts: dict[str, float]) -> None:
    """log q* = (1−α)·log π_θ + α·log π_t − log Z at every id that may be drawn, forced and fallback tokens too."""
    theta, teacher = logits(40, batch=64, scale=4.0), logits(41, batch=64, scale=4.0)
    first = torch.arange(64) % 8 == 0
    config = MixtureConfig.preset(preset)
    got = mix(theta, teacher, first, NUM_IDS, config, SamplingConfig.model_validate(cuts))
    log_theta, log_teacher = (full.gather(-1, got.ids) for full in (got.log_theta, got.log_teacher))
    alpha, drawable = got.alpha[:, None], got.log_q > -INF
    expected = (1 - alpha) * log_theta + alpha * log_teacher - got.log_z[:, None]
    torch.testing.assert_close(got.log_q[drawable], expected[drawable], atol=1e-9, rtol=0)
    assert (got.log_z <= 1e-12).all()
    if preset == "exploratory" and not cuts:  # nothing cut away: −log Z is the two KLs' mean, weighted by α
        means = (1 - got.alpha) * got.kl_theta + got.alpha * got.kl_teacher
        torch.testing.assert_close(-got.log_z, means, atol=1e-9, rtol=0)


def test_first_token_is_forced() -> None:
    theta, teacher = logits(7), logits(8)
    got = mixed(theta, teacher, first=True, force_first_token=True)
    assert (got.mode == FORCED).all()
    assert (got.alpha == 1).all()
    torch.testing.assert_close(got.log_q, teacher.double().log_softmax(-1))
    assert (mixed(theta, teacher, first=True, force_first_token=False).mode == MIXED).all()


def test_trust_region_is_the_teachers_top_p_set() -> None:
    theta, teacher = logits(9), logits(10)
    got = mixed(theta, teacher, trust_region=True, target_top_p=0.8)
    inside = got.log_q > -INF
    assert (teacher.double().softmax(-1) * inside).sum(-1).min() >= 0.8
    assert (got.support_size == inside.sum(-1)).all()
    assert got.constrained.all()
    assert not mixed(theta, teacher).constrained.any()


@pytest.mark.parametrize(("field", "value"), [("stability_threshold_js", 0.05), ("stability_threshold_overlap", 0.9)])
def test_instability_falls_back_to_the_teacher_or_is_counted(field: str, value: float) -> None:
    theta, teacher = logits(11), logits(12)
    limits: dict[str, Any] = {field: value}
    got = mixed(theta, teacher, stability_check=True, **limits)
    assert got.unstable.all()
    assert (got.mode == FALLBACK).all()
    assert (got.alpha == 1).all()
    counted = mixed(theta, teacher, stability_check=True, auto_fallback=False, **limits)
    assert counted.unstable.all()
    assert (counted.mode == MIXED).all()
    off = mixed(theta, teacher, stability_check=False, **limits)
    assert not off.unstable.any()


def test_protections_measure_the_full_distributions() -> None:
    """JS with overlap do not change when the trust region does."""
    theta, teacher = logits(13), logits(14)
    wide, narrow = (mixed(theta, teacher, trust_region=True, target_top_p=p) for p in (0.99, 0.1))
    torch.testing.assert_close(wide.js, narrow.js)
    torch.testing.assert_close(wide.overlap_mass, narrow.overlap_mass)
    torch.testing.assert_close(wide.log_theta, theta.double().log_softmax(-1))


@pytest.mark.parametrize("temperature", [0.0, 0.3])
@pytest.mark.parametrize("top_k", [1, 20, 299, 300])
@pytest.mark.parametrize("kind", ["distinct", "ties", "probabilities of 0"])
def test_overlap_of_the_full_distributions(kind: str, top_k: int, temperature: float) -> None:
    theta, teacher = logits(30), logits(31)
    if kind == "ties":  # only so many of those equal to the k-th logit are in as make k
        theta, teacher = theta.round(), theta.round()
    elif kind == "probabilities of 0":
        theta[:, 10:] -= 2000.0
    got = mixed(theta, teacher, temperature=temperature, overlap_top_k=top_k)
    p, q = (values.double().div(temperature or 1.0).softmax(-1) for values in (theta, teacher))
    mass, count = overlap(p, q, top_k)
    torch.testing.assert_close(got.overlap_mass, mass, atol=1e-12, rtol=0)
    assert torch.equal(got.overlap_count, count)
    assert (got.overlap_count <= top_k).all()


def test_one_hot_teacher_and_one_hot_student() -> None:
    open_row, one_hot = row(0.5, 1.0, 0.0), row(-INF, 0.0, -INF)
    for theta, teacher in ((open_row, one_hot), (one_hot, open_row)):
        got = mixed(theta, teacher)
        assert got.log_q.exp().tolist() == [[0.0, 1.0, 0.0]]
        assert got.alpha.item() == 0.5
        assert kl_error(got).item() == 0
        assert math.isfinite(got.ess_ratio.item())


def test_disjoint_supports_fall_back_and_are_counted() -> None:
    theta, teacher = row(0.0, -INF, 1.0, -INF), row(-INF, 0.0, -INF, 1.0)
    got = mixed(theta, teacher, auto_fallback=False)
    assert got.mode.item() == FALLBACK
    assert got.unstable.item()
    torch.testing.assert_close(got.log_q, teacher.double().log_softmax(-1))
    assert got.js.item() == pytest.approx(math.log(2))
    assert got.overlap_mass.item() == 0


@pytest.mark.parametrize("bad", [math.nan, INF])
@pytest.mark.parametrize("side", [0, 1])
def test_unusable_logits_are_flagged_and_do_not_affect_other_rows(bad: float, side: int) -> None:
    pair = [logits(15, batch=3), logits(16, batch=3)]
    clean = mixed(*pair)
    pair[side] = pair[side].clone()
    pair[side][1, 5] = bad
    got = mixed(*pair)
    assert got.finite.tolist() == [True, False, True]
    assert not got.log_q.isnan().any()
    torch.testing.assert_close(got.log_q[[0, 2]], clean.log_q[[0, 2]])
    pair[side][1] = -INF
    assert mixed(*pair).finite.tolist() == [True, False, True]


def test_temperature_applies_to_both_models_before_mixing() -> None:
    theta, teacher = logits(17), logits(18)
    cool = mixed(theta, teacher, temperature=0.5)
    scaled = mixed(theta * 2, teacher * 2)
    torch.testing.assert_close(cool.log_q, scaled.log_q)
    torch.testing.assert_close(cool.log_theta, (theta * 2).double().log_softmax(-1))
    torch.testing.assert_close(mixed(theta, teacher, temperature=0).log_q, mixed(theta, teacher).log_q)


def test_padding_columns_are_never_drawn() -> None:
    """Widths as unequal as Qwen2.5-7B's with 1.5B's, relative to what both know."""
    theta, teacher = logits(19, width=320), logits(20, width=310)
    theta[:, NUM_IDS:], teacher[:, NUM_IDS:] = 100.0, math.nan
    got = mixed(theta, teacher, num_ids=NUM_IDS)
    assert got.log_q.shape == (32, NUM_IDS)
    assert got.finite.all()
    expected = mixed(theta[:, :NUM_IDS], teacher[:, :NUM_IDS])
    torch.testing.assert_close(got.log_q, expected.log_q)


@pytest.mark.slow
def test_bfloat16_logits_are_summed_in_float64() -> None:
    """At a vocabulary of 151,936 a float32 sum errs by more than 1e-6."""
    theta, teacher = (logits(seed, batch=2, width=151_936).bfloat16() for seed in (21, 22))
    assert kl_error(mixed(theta, teacher)).max() < 1e-9


def test_cutting_keeps_a_normalised_subset_of_q() -> None:
    theta, teacher = logits(23), logits(24)
    rows = torch.zeros(32, dtype=torch.bool)
    config = MixtureConfig.preset("exploratory")
    whole = mix(theta, teacher, rows, NUM_IDS, config, SamplingConfig())
    for sampling in (SamplingConfig(top_k=5), SamplingConfig(top_p=0.5), SamplingConfig(min_p=0.1)):
        cut = mix(theta, teacher, rows, NUM_IDS, config, sampling)
        inside = cut.log_q > -INF
        assert (cut.support_size < whole.support_size).all()
        torch.testing.assert_close(cut.log_q.logsumexp(-1), torch.zeros(32, dtype=torch.float64), atol=1e-12, rtol=0)
        assert whole.log_q.where(inside, INF).amin(-1).ge(whole.log_q.where(~inside, -INF).amax(-1)).all()
        torch.testing.assert_close(cut.kl_theta, whole.kl_theta)


WITH_HOLES = st.one_of(st.floats(-500, 500, width=32), st.just(-INF))


@given(
    arrays(np.float32, st.tuples(st.just(2), st.integers(2, 12)), elements=WITH_HOLES),
    st.sampled_from(["conservative", "balanced", "exploratory"]),
    st.sampled_from(["kl_symmetry", "ess_balance", "entropy", "fixed"]),
)
def test_any_logits_yield_a_distribution_or_are_flagged(values: np.ndarray, preset: str, method: str) -> None:
    """One-hots, disjoint supports and rows without a finite logit among them."""
    theta, teacher = torch.from_numpy(values[:1]), torch.from_numpy(values[1:])
    got = mixed(theta, teacher, preset=preset, alpha_method=method, alpha=0.3)
    usable = bool(theta.isfinite().any() and teacher.isfinite().any())
    assert got.finite.item() == usable
    if not usable:
        return
    shared = bool((theta.isfinite() & teacher.isfinite()).any())
    assert got.log_q.logsumexp(-1).item() == pytest.approx(0, abs=1e-9)
    assert (teacher.isfinite() | (got.log_q == -INF)).all()  # never an id that the teacher rules out
    assert 0 <= got.alpha.item() <= 1
    assert 0 <= got.js.item() <= math.log(2)
    assert 0 <= got.overlap_mass.item() <= 1
    assert math.isfinite(got.ess_ratio.item())
    assert shared or got.mode.item() == FALLBACK
    if got.mode.item() == MIXED and method == "kl_symmetry":
        assert kl_error(got).item() < 1e-6
    if got.mode.item() == FALLBACK:
        assert got.alpha.item() == 1
