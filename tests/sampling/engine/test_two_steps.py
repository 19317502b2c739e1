"""Two steps in flight draw what one does.

vLLM schedules asynchronously on GPUs alone; here its asynchronous scheduler runs on the CPU, so that the order of
launches, ends and admissions is proven. Streams and pinned memory are not: those need a GPU.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from sampling import DualOutput, DualPrompt, DualSampler, EngineConfig, FailedRow, ModelConfig, SamplingConfig
from sampling.errors import LockstepError, NonFiniteLogitsError
from tests.sampling.conftest import MAX_MODEL_LEN, lockstep, theta_engine
from tests.sampling.test_sampler import prompts


@pytest.fixture(scope="module")
def ahead(tiny_pair: tuple[Path, Path]) -> Iterator[DualSampler]:
    """As `sampler`, with two steps in flight."""
    teacher, theta = (ModelConfig(model=str(path), max_model_len=MAX_MODEL_LEN) for path in tiny_pair)
    engine = EngineConfig(max_num_seqs=6, max_num_batched_tokens=MAX_MODEL_LEN, async_scheduling=True)
    with DualSampler(teacher, theta, engine=engine) as loaded:
        yield loaded


def drawn(sampler: DualSampler, rows: list[DualPrompt], sampling: SamplingConfig) -> dict[str, DualOutput]:
    return {out.id: out for out in sampler.generate(rows, sampling, progress=False)}


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(max_tokens=1),
        SamplingConfig(max_tokens=2, seed=3),
        SamplingConfig(max_tokens=30, temperature=0),
        SamplingConfig(max_tokens=120, temperature=2.0, seed=3),  # many rows end by EOS
        SamplingConfig(max_tokens=40, seed=5, stop=("a", "\n"), stop_token_ids=(17, 99)),
    ],
    ids=lambda sampling: f"{sampling.max_tokens}-tokens",
)
def test_tokens_and_figures_are_those_of_one_step(
    sampling: SamplingConfig, sampler: DualSampler, ahead: DualSampler
) -> None:
    """24 rows through 6 places. Rows meet in other batches, which moves logits by 1e-6: of the 1,500 draws at most
    one flips with a chance below 1e-2, and the seeds are fixed."""
    before = ahead.stats.num_steps
    one, two = drawn(sampler, prompts(), sampling), drawn(ahead, prompts(), sampling)
    assert ahead.stats.num_steps > before
    assert two.keys() == one.keys()
    for row_id, expected in one.items():
        found = two[row_id]
        assert (found.token_ids, found.text, found.finish_reason) == (
            expected.token_ids,
            expected.text,
            expected.finish_reason,
        )
        for name in expected.diagnostics.__annotations__:
            ours, theirs = getattr(found.diagnostics, name), getattr(expected.diagnostics, name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_next_step_is_launched_before_the_last_is_read(ahead: DualSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    engine = theta_engine(ahead)

    def noted(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            order.append(name)
            return inner(*args)

        return call

    for name in ("forward", "update_from_output"):
        monkeypatch.setattr(engine, name, noted(name, getattr(engine, name)))
    row = DualPrompt("teacher", "theta", id="one")
    ahead.generate([row], SamplingConfig(max_tokens=4, temperature=0), progress=False)
    assert order == [
        "forward",
        "forward",
        "update_from_output",
        "forward",
        "update_from_output",
        "forward",
        "update_from_output",
        "update_from_output",
    ]


def test_totals_count_no_token_that_was_dropped(ahead: DualSampler) -> None:
    before = ahead.stats.as_dict()
    outs = drawn(ahead, prompts(), SamplingConfig(max_tokens=120, temperature=2.0, seed=3)).values()
    assert any(out.finish_reason == "eos" for out in outs)
    grown = {name: value - before[name] for name, value in ahead.stats.as_dict().items()}
    assert grown["num_tokens"] == sum(len(out.token_ids) for out in outs)
    assert grown["num_requests"] == len(outs)
    assert grown["num_forced"] == len(outs)


def test_nan_logits_spare_the_others(ahead: DualSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row's logits turn to NaN at its third token: the fourth is under way by then."""
    sampling = SamplingConfig(max_tokens=6, seed=4)
    healthy = {out.id: out.token_ids for out in ahead.generate(prompts(8), sampling, progress=False)}
    engine, forward = theta_engine(ahead), theta_engine(ahead).forward

    def poisoned(num_rows: int) -> tuple[list[str], torch.Tensor]:
        request_ids, logits = forward(num_rows)
        for place, request_id in enumerate(request_ids):
            row = lockstep(ahead).scheduler.running[request_id]
            if row.id == "row-2" and row.num_drawn == 2:
                logits = logits.clone()
                logits[place, 17] = math.nan
        return request_ids, logits

    monkeypatch.setattr(engine, "forward", poisoned)
    results = {result.id: result for result in ahead.run(prompts(8), sampling)}
    failed = results.pop("row-2")
    assert isinstance(failed, FailedRow)
    assert isinstance(failed.error, NonFiniteLogitsError)
    assert "token 2" in str(failed.error)
    assert {key: cast("DualOutput", out).token_ids for key, out in results.items()} == {
        key: token_ids for key, token_ids in healthy.items() if key != "row-2"
    }


def test_a_call_that_is_left_leaves_nothing_behind(ahead: DualSampler) -> None:
    sampling = SamplingConfig(max_tokens=20, seed=2)
    whole = drawn(ahead, prompts(9), sampling)
    for _ in range(3):  # each leaves a step in flight
        run = ahead.run(prompts(), SamplingConfig(max_tokens=30))
        next(run)
        cast("Generator[Any]", run).close()
        assert not lockstep(ahead).scheduler.running
    again = drawn(ahead, prompts(9), sampling)
    assert {key: out.token_ids for key, out in again.items()} == {key: out.token_ids for key, out in whole.items()}


def test_streams_side_by_side_draw_what_generate_draws(ahead: DualSampler) -> None:
    """Calls of different settings share their steps."""
    samplings = [SamplingConfig(max_tokens=12, seed=6), SamplingConfig(max_tokens=9, temperature=0)]
    calls = list(zip(prompts(4), samplings * 2, strict=True))
    outs = [ahead.generate([row], sampling, progress=False)[0].token_ids for row, sampling in calls]

    async def collect(row: DualPrompt, sampling: SamplingConfig) -> tuple[int, ...]:
        return tuple([token.token_id async for token in ahead.stream(row, sampling)])

    async def all_rows() -> list[tuple[int, ...]]:
        return await asyncio.gather(*(collect(*call) for call in calls))

    assert asyncio.run(all_rows()) == outs


def test_a_row_may_fill_its_context_to_the_last_token(ahead: DualSampler) -> None:
    rows = [DualPrompt("x" * (MAX_MODEL_LEN - 10), "y" * (MAX_MODEL_LEN - 10), id=f"full-{i}") for i in range(3)]
    outs = ahead.generate(rows, SamplingConfig(max_tokens=10, seed=1), progress=False)
    assert all(len(out.token_ids) == 10 or out.finish_reason == "eos" for out in outs)
    assert any(len(out.token_ids) == 10 for out in outs)


@pytest.mark.parametrize("part", ["forward", "update_from_output"])
def test_a_step_that_was_broken_off_is_the_end(
    part: str, tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C inside a step: vLLM has named blocks that nobody computed, which the next call would read."""
    teacher, theta = (ModelConfig(model=str(path), max_model_len=64) for path in tiny_pair)
    engine = EngineConfig(max_num_seqs=2, async_scheduling=True)
    sampling = SamplingConfig(max_tokens=8)

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with DualSampler(teacher, theta, engine=engine) as sampler:
        with monkeypatch.context() as patched:
            patched.setattr(theta_engine(sampler), part, interrupted)
            with pytest.raises(KeyboardInterrupt):
                sampler.generate(["a prompt"], sampling, progress=False)
        with pytest.raises(LockstepError, match="broken off"):
            sampler.generate(["a prompt"], sampling, progress=False)
