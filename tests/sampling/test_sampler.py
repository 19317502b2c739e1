"""Tests of the sampler on real vLLM, against transformers and against exact probabilities."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from sampling import DualOutput, DualPrompt, DualSampler, FailedRow, MixtureConfig, SamplingConfig
from sampling.errors import (
    CapacityError,
    ConfigurationError,
    EmptyPromptError,
    NonFiniteLogitsError,
    PromptTooLongError,
    UnknownTokenError,
)
from sampling.results import FALLBACK, FORCED, MIXED
from tests.sampling.conftest import MAX_MODEL_LEN, NUM_IDS, lockstep
from tests.sampling.reference import Reference, q_star

EOS_ID = 256
NUM_PROMPTS = 24
MAX_TOKENS = 10

OFF: dict[str, Any] = {"force_first_token": False, "trust_region": False, "stability_check": False}
CONFIGS: dict[str, dict[str, Any]] = {
    **{f"method-{name}": {"alpha_method": name, "alpha": 0.3} for name in ("kl_symmetry", "ess_balance", "entropy")},
    "method-fixed": {"alpha_method": "fixed", "alpha": 0.3},
    "all-off": OFF,
    "force-only": {**OFF, "force_first_token": True},
    "trust-only": {**OFF, "trust_region": True, "target_top_p": 0.8},
    "stability-only": {**OFF, "stability_check": True},
    "stability-counts-only": {"auto_fallback": False},
    "theta": {**OFF, "alpha_method": "fixed", "alpha": 0.0},
    "teacher": {**OFF, "alpha_method": "fixed", "alpha": 1.0},
}


def prompts(num: int = NUM_PROMPTS) -> list[DualPrompt]:
    """Return prompts of 3 to 118 bytes, the teacher's and theta's of different lengths."""
    rng = np.random.default_rng(0)
    text = ["".join(chr(97 + letter) for letter in rng.integers(0, 26, size)) for size in rng.integers(3, 119, 2 * num)]
    return [DualPrompt(teacher=text[2 * i], theta=text[2 * i + 1], id=f"row-{i}") for i in range(num)]


@pytest.fixture(scope="module")
def reference(tiny_pair: tuple[Path, Path]) -> Reference:
    teacher, theta = tiny_pair
    return Reference(theta, teacher, NUM_IDS, EOS_ID)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_equal_a_transformers_reference(name: str, sampler: DualSampler, reference: Reference) -> None:
    """24 rows, 6 at once, 1,500 prompt tokens a side against a prefill budget of 256."""
    config = MixtureConfig.preset("balanced", **CONFIGS[name])
    rows = prompts()
    assert sum(len(row.teacher) for row in rows) > 4 * MAX_MODEL_LEN
    outs = sampler.generate(rows, SamplingConfig(max_tokens=MAX_TOKENS, temperature=0), mixture=config, progress=False)
    for row, out in zip(rows, outs, strict=True):
        teacher, theta = (tuple(sampler.teacher_tokenizer(text).input_ids) for text in (row.teacher, row.theta))
        assert list(out.token_ids) == reference.greedy(theta, teacher, config, MAX_TOKENS), row.id


@pytest.mark.slow
def test_drawn_tokens_follow_q_star(wide_sampler: DualSampler, reference: Reference) -> None:
    """χ² of 24,000 tokens of the first position against the exact q*; a false failure has a probability of 1e-6."""
    num = 24_000
    config = MixtureConfig.preset("balanced", force_first_token=False)
    theta, teacher = "the student sees this", "the teacher sees something else"
    ids = [tuple(wide_sampler.theta_tokenizer(text).input_ids) for text in (theta, teacher)]
    exact = q_star(reference._logits(0, ids[0]), reference._logits(1, ids[1]), config, first=True)
    sampling = SamplingConfig(n=600, max_tokens=1, seed=11)
    observed = np.zeros(NUM_IDS)
    for out in wide_sampler.run((DualPrompt(teacher, theta, id=str(i)) for i in range(40)), sampling, mixture=config):
        assert not isinstance(out, FailedRow)
        observed[out.token_ids[0]] += 1
    assert observed.sum() == num
    assert observed[exact == 0].sum() == 0
    likely = exact * num >= 5  # Pearson's rule; the others form one class
    expected = np.append(exact[likely], exact[~likely].sum()) * num
    counts = np.append(observed[likely], observed[~likely].sum())
    kept = expected > 0
    statistic = float(((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum())
    assert statistic < chi2.isf(1e-6, df=int(kept.sum()) - 1)


@pytest.mark.slow
def test_endings_are_drawn_as_one_event(
    wide_sampler: DualSampler, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Theta's three likeliest ids end a completion, too: of 4,000 draws the share that ends is their sum, within 5 σ.

    A false failure has a probability of 6e-7.
    """
    text, num = "the student sees this", 4_000
    probs = np.exp(reference._logits(0, tuple(wide_sampler.theta_tokenizer(text).input_ids))[:NUM_IDS])
    probs /= probs.sum()
    others = [int(token_id) for token_id in np.argsort(-probs)[:3]]
    monkeypatch.setattr(wide_sampler, "eos_ids", (EOS_ID, *others))
    theta_alone = MixtureConfig.preset("exploratory", alpha_method="fixed", alpha=0.0)
    outs = wide_sampler.generate(
        [DualPrompt(text, text, id=str(i)) for i in range(20)],
        SamplingConfig(n=num // 20, max_tokens=1, seed=3),
        mixture=theta_alone,
        progress=False,
    )
    drawn = [out.token_ids[0] for out in outs]
    assert not set(drawn) & set(others)
    assert {out.finish_reason for out in outs if out.token_ids[0] == EOS_ID} == {"eos"}
    share = float(probs[[EOS_ID, *others]].sum())
    assert 0.05 < share < 0.95
    assert abs(drawn.count(EOS_ID) / num - share) < 5 * math.sqrt(share * (1 - share) / num)
    ended = next(out for out in outs if out.token_ids[0] == EOS_ID)
    assert math.exp(ended.diagnostics.logprob_theta[0]) == pytest.approx(share, abs=1e-4)


def test_draws_do_not_depend_on_the_batch(sampler: DualSampler) -> None:
    """The order of rows, the batch and the number of samples change no draw.

    Batches of other shapes move logits by 1e-6: one of these 480 draws flips with a probability below 1e-3, and the
    seed is fixed.
    """
    sampling = SamplingConfig(max_tokens=MAX_TOKENS, seed=5)
    rows = prompts()
    whole = {out.id: out.token_ids for out in sampler.generate(rows, sampling, progress=False)}
    backwards = {out.id: out.token_ids for out in sampler.generate(rows[::-1], sampling, progress=False)}
    alone = sampler.generate(rows[7:8], sampling.model_copy(update={"n": 3}), progress=False)
    assert backwards == whole
    assert alone[0].token_ids == whole["row-7"]
    assert [out.sample_idx for out in alone] == [0, 1, 2]
    other = {
        out.id: out.token_ids for out in sampler.generate(rows, SamplingConfig(max_tokens=MAX_TOKENS), progress=False)
    }
    assert other != whole


@pytest.mark.parametrize(("alpha", "model"), [(0.0, "theta"), (1.0, "teacher")])
def test_a_fixed_alpha_of_0_or_1_is_one_model(alpha: float, model: str, sampler: DualSampler) -> None:
    config = MixtureConfig.preset("exploratory", alpha_method="fixed", alpha=alpha)
    out = sampler.generate(prompts(1), SamplingConfig(max_tokens=MAX_TOKENS), mixture=config, progress=False)[0]
    assert (out.diagnostics.alpha == alpha).all()
    assert (getattr(out.diagnostics, f"kl_{model}") == 0).all()
    np.testing.assert_allclose(out.diagnostics.logprob_q, getattr(out.diagnostics, f"logprob_{model}"), atol=1e-6)


def test_diagnostics_are_within_their_bounds(sampler: DualSampler) -> None:
    outs = sampler.generate(prompts(), SamplingConfig(max_tokens=30, temperature=0.8, seed=2), progress=False)
    modes = np.concatenate([out.diagnostics.mode for out in outs])
    assert set(modes) == {MIXED, FORCED, FALLBACK}
    for out in outs:
        diagnostics = out.diagnostics
        assert all(len(getattr(diagnostics, name)) == len(out.token_ids) for name in diagnostics.__annotations__)
        mixed = diagnostics.mode == MIXED
        assert diagnostics.mode[0] == FORCED
        assert (diagnostics.mode[1:] != FORCED).all()
        assert (diagnostics.alpha[~mixed] == 1).all()
        assert ((diagnostics.alpha >= 0) & (diagnostics.alpha <= 1)).all()
        assert (diagnostics.kl_error[mixed] < 1e-6).all()
        assert ((diagnostics.js >= 0) & (diagnostics.js <= math.log(2))).all()
        assert ((diagnostics.overlap_mass >= 0) & (diagnostics.overlap_mass <= 1)).all()
        assert (diagnostics.support_size >= 1).all()
        for name in ("logprob_q", "logprob_theta", "logprob_teacher"):
            assert (getattr(diagnostics, name) <= 0).all()


def test_stats_add_up(sampler: DualSampler) -> None:
    before = sampler.stats.as_dict()
    outs = sampler.generate(prompts(), SamplingConfig(max_tokens=12, seed=1), progress=False)
    after = sampler.stats.as_dict()
    increase = {name: after[name] - before[name] for name in after}
    modes = np.concatenate([out.diagnostics.mode for out in outs])
    assert increase["num_requests"] == len(outs)
    assert increase["num_tokens"] == len(modes)
    assert increase["num_forced"] == (modes == FORCED).sum() == len(outs)
    assert increase["num_fallback"] == (modes == FALLBACK).sum()
    assert increase["num_unstable"] == increase["num_fallback"]
    assert increase["num_stability_checks"] == len(modes) - len(outs)
    assert 0 < increase["num_constrained"] <= len(modes)
    assert sampler.stats.max_kl_error < 1e-6
    assert increase["total_s"] >= increase["theta_s"] + increase["teacher_s"] + increase["mixing_s"] > 0


def test_a_finished_row_is_replaced_in_the_next_step(sampler: DualSampler) -> None:
    """Five long rows beside 20 short ones, 6 at once: the short ones run one after the other beside the long ones."""
    long = [DualPrompt("long", "long", id=f"long-{i}") for i in range(5)]
    short = [DualPrompt("short", "short", id=f"short-{i}") for i in range(20)]
    first = sampler.generate([*long, *short], SamplingConfig(max_tokens=60, temperature=0), progress=False)
    steps = sampler.stats.num_steps
    order = [out.id for out in sampler.run([*long, *short], SamplingConfig(max_tokens=60, temperature=0))]
    num_steps = sampler.stats.num_steps - steps
    lengths = {out.id: len(out.token_ids) for out in first}
    assert len(order) == 25
    assert num_steps < -(-25 // 6) * max(lengths.values()) + 1
    assert sorted(order) == sorted(lengths)


def test_stops(sampler: DualSampler) -> None:
    row = prompts(1)
    config = MixtureConfig.preset("balanced")
    plain = sampler.generate(row, SamplingConfig(max_tokens=40, temperature=0), mixture=config, progress=False)[0]
    assert plain.finish_reason == "length"
    assert len(plain.token_ids) == 40
    third = plain.token_ids[2]
    cut = plain.token_ids.index(third) + 1
    by_id = sampler.generate(
        row, SamplingConfig(max_tokens=40, temperature=0, stop_token_ids=(third,)), mixture=config, progress=False
    )[0]
    assert by_id.finish_reason == "stop"
    assert by_id.token_ids == plain.token_ids[:cut]
    letters = [index for index in range(39) if plain.text[index : index + 2].isascii()][3]
    stop = plain.text[letters : letters + 2]
    by_text = sampler.generate(
        row, SamplingConfig(max_tokens=40, temperature=0, stop=(stop, "never there")), mixture=config, progress=False
    )[0]
    assert by_text.finish_reason == "stop"
    assert by_text.text == plain.text[: plain.text.index(stop)]
    assert sampler.teacher_tokenizer.decode(list(by_text.token_ids)).endswith(stop)


def test_eos_ends_a_row_and_is_kept(sampler: DualSampler) -> None:
    outs = sampler.generate(prompts(), SamplingConfig(max_tokens=120, seed=3, temperature=2.0), progress=False)
    ended = [out for out in outs if out.finish_reason == "eos"]
    assert ended
    for out in ended:
        assert out.token_ids[-1] == EOS_ID
        assert EOS_ID not in out.token_ids[:-1]
        assert "<|endoftext|>" not in out.text


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}])
def test_cutting_q_to_one_token_is_greedy(cut: dict[str, Any], sampler: DualSampler) -> None:
    greedy = sampler.generate(prompts(6), SamplingConfig(max_tokens=8, temperature=0), progress=False)
    config = MixtureConfig.preset("balanced")
    outs = sampler.generate(prompts(6), SamplingConfig(max_tokens=8, seed=9, **cut), mixture=config, progress=False)
    assert [out.token_ids for out in outs] == [out.token_ids for out in greedy]
    assert all((out.diagnostics.logprob_q == 0).all() for out in outs)


def test_invalid_rows_are_reported_by_id_and_stop_nothing(sampler: DualSampler) -> None:
    rows = [
        DualPrompt("fine", "fine", id="good"),
        DualPrompt("", "fine", id="empty"),
        DualPrompt("x" * 250, "fine", id="long"),
        DualPrompt("fine", "x" * 1000, id="longer"),
        DualPrompt((1, NUM_IDS), "fine", id="padding"),  # the models have columns past the tokenizer's ids
        DualPrompt("fine", (-1,), id="negative"),
    ]
    results = {result.id: result for result in sampler.run(rows, SamplingConfig(max_tokens=10))}
    errors = {key: result.error for key, result in results.items() if isinstance(result, FailedRow)}
    assert {key: type(error) for key, error in errors.items()} == {
        "empty": EmptyPromptError,
        "long": PromptTooLongError,
        "longer": PromptTooLongError,
        "padding": UnknownTokenError,
        "negative": UnknownTokenError,
    }
    assert "theta's prompt holds id -1; its tokenizer has 0 to 256" in str(errors["negative"])
    assert "250 tokens, 260 with max_tokens 10; its context is 256" in str(errors["long"])
    with pytest.raises(EmptyPromptError, match="row empty"):
        sampler.generate(rows, SamplingConfig(max_tokens=10), progress=False)
    handed = sampler.generate(rows, SamplingConfig(max_tokens=10, n=2), progress=False, on_error="return")
    assert [(result.id, result.sample_idx) for result in handed] == [(row.id, k) for row in rows for k in range(2)]
    assert [result.id for result in handed if isinstance(result, DualOutput)] == ["good", "good"]


def test_nan_logits_fail_only_their_row(sampler: DualSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row's logits turn to NaN at its third token."""
    engine, forward = lockstep(sampler).theta, lockstep(sampler).theta.forward

    def poisoned(num_rows: int) -> tuple[list[str], torch.Tensor]:
        request_ids, logits = forward(num_rows)
        for index, request_id in enumerate(request_ids):
            row = sampler._engine.scheduler.running[request_id]
            if row.id == "row-2" and len(row.token_ids) == 2:
                logits = logits.clone()
                logits[index, 17] = math.nan
        return request_ids, logits

    sampling = SamplingConfig(max_tokens=6, seed=4)
    healthy = {out.id: out.token_ids for out in sampler.generate(prompts(8), sampling, progress=False)}
    monkeypatch.setattr(engine, "forward", poisoned)
    results = {result.id: result for result in sampler.run(prompts(8), sampling)}
    failed = results.pop("row-2")
    assert isinstance(failed, FailedRow)
    assert isinstance(failed.error, NonFiniteLogitsError)
    assert "row-2" in str(failed.error)
    assert "token 2" in str(failed.error)
    drawn = {key: out.token_ids for key, out in results.items() if isinstance(out, DualOutput)}
    assert drawn == {key: token_ids for key, token_ids in healthy.items() if key != "row-2"}


def test_a_row_may_fill_its_context_to_the_last_token(sampler: DualSampler) -> None:
    """The longest rows that admission accepts, concurrently: vLLM must not end them itself."""
    rows = [DualPrompt("x" * (MAX_MODEL_LEN - 10), "y" * (MAX_MODEL_LEN - 10), id=f"full-{i}") for i in range(3)]
    outs = sampler.generate(rows, SamplingConfig(max_tokens=10, seed=1), progress=False)
    assert all(len(out.token_ids) == 10 or out.finish_reason == "eos" for out in outs)
    assert any(len(out.token_ids) == 10 for out in outs)


def test_skip_excludes_completions(sampler: DualSampler) -> None:
    sampling = SamplingConfig(n=2, max_tokens=3)
    done = {("row-0", 0), ("row-1", 1)}
    results = [(out.id, out.sample_idx) for out in sampler.run(prompts(3), sampling, skip=done)]
    assert sorted(results) == [("row-0", 1), ("row-1", 0), ("row-2", 0), ("row-2", 1)]


def test_leaving_a_run_early_frees_its_rows(sampler: DualSampler) -> None:
    run = sampler.run(prompts(), SamplingConfig(max_tokens=30))
    next(run)
    cast("Generator[Any]", run).close()
    scheduler = sampler._engine.scheduler
    assert not scheduler.running
    assert not scheduler.waiting
    assert len(sampler.generate(prompts(3), SamplingConfig(max_tokens=3), progress=False)) == 3


def test_concurrent_streams_equal_generate(sampler: DualSampler) -> None:
    sampling = SamplingConfig(max_tokens=12, seed=6)
    rows = prompts(4)
    outs = sampler.generate(rows, sampling, progress=False)

    async def collect(row: DualPrompt) -> tuple[list[int], str, list[str | None]]:
        drawn = [token async for token in sampler.stream(row, sampling)]
        return [token.token_id for token in drawn], "".join(t.text for t in drawn), [t.finish_reason for t in drawn]

    async def all_rows() -> list[tuple[list[int], str, list[str | None]]]:
        return await asyncio.gather(*map(collect, rows))

    for out, (token_ids, _, reasons) in zip(outs, asyncio.run(all_rows()), strict=True):
        assert tuple(token_ids) == out.token_ids
        assert reasons[-1] == out.finish_reason
        assert set(reasons[:-1]) <= {None}


def test_stream_raises_the_rows_error_and_can_be_left(sampler: DualSampler) -> None:
    async def long() -> None:
        async for _ in sampler.stream(DualPrompt("x" * 255, "x", id="long"), SamplingConfig(max_tokens=5)):
            pass

    async def left() -> None:
        stream = sampler.stream(DualPrompt("x", "x", id="left"), SamplingConfig(max_tokens=50))
        await anext(stream)
        await cast("AsyncGenerator[Any]", stream).aclose()

    with pytest.raises(PromptTooLongError):
        asyncio.run(long())
    asyncio.run(left())
    assert not sampler._engine.scheduler.running


def test_plain_texts_and_their_mistakes(sampler: DualSampler) -> None:
    sampling = SamplingConfig(max_tokens=2, temperature=0)
    outs = sampler.generate(prompts=["a", "b"], sampling=sampling, theta_prompts=["c", "d"], progress=False)
    same = sampler.generate([DualPrompt("a", "c", id="x"), DualPrompt("b", "d", id="y")], sampling, progress=False)
    assert [out.token_ids for out in outs] == [out.token_ids for out in same]
    with pytest.raises(ConfigurationError, match="2 prompts, 1 theta_prompts"):
        sampler.generate(["a", "b"], sampling, theta_prompts=["c"])
    with pytest.raises(ConfigurationError, match="different ids"):
        sampler.generate([DualPrompt("a", "c", id="x")] * 2, sampling)
    with pytest.raises(CapacityError, match="max_tokens 256"):
        sampler.generate(["a"], SamplingConfig(max_tokens=256))
    with pytest.raises(ConfigurationError, match="stop_token_ids"):
        sampler.generate(["a"], SamplingConfig(max_tokens=2, stop_token_ids=(9999,)))
