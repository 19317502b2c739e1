"""Tests of two steps in flight against one.

vLLM schedules asynchronously on GPUs only; here its asynchronous scheduler runs on the CPU, which tests the order of
launches, ends and admissions. Streams and pinned memory need a GPU (tests/gpu).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from sampling import (
    DualOutput,
    DualPrompt,
    DualSampler,
    EngineConfig,
    FailedRow,
    MixtureConfig,
    ModelConfig,
    SamplingConfig,
)
from sampling.engine.lockstep import LockstepEngine
from sampling.engine.request import Request, RequestContext
from sampling.errors import LockstepError, NonFiniteLogitsError
from tests.sampling.conftest import MAX_MODEL_LEN, lockstep, theta_engine
from tests.sampling.test_sampler import prompts
from tests.tiny import byte_tokenizer


@pytest.fixture(scope="module")
def ahead(tiny_pair: tuple[Path, Path]) -> Iterator[DualSampler]:
    """Return a sampler like `sampler`, with two steps in flight."""
    teacher, theta = (ModelConfig(model=str(path), max_model_len=MAX_MODEL_LEN) for path in tiny_pair)
    engine = EngineConfig(max_num_seqs=6, max_num_batched_tokens=MAX_MODEL_LEN, async_scheduling=True)
    with DualSampler(teacher, theta, engine=engine) as loaded:
        yield loaded


class FakeModel:
    """A `Model` with equal logits for 8 ids."""

    max_model_len = max_num_batched_tokens = num_blocks = 64
    device, dtype, is_remote = torch.device("cpu"), torch.float32, False

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._request_ids: list[str] = []

    def num_blocks_for(self, num_tokens: int) -> int:
        return num_tokens

    def add(self, request_id: str, prompt_ids: Sequence[int], max_tokens: int, *, adapted: bool = True) -> None:
        self._request_ids.append(request_id)

    def begin_forward(self, num_rows: int) -> None: ...

    def forward(self, num_rows: int) -> tuple[list[str], torch.Tensor]:
        assert num_rows == len(self._request_ids)
        self.calls.append("forward")
        return list(self._request_ids), torch.zeros(num_rows, 8)

    def set_sampled_tokens(self, token_ids: torch.Tensor) -> None: ...

    def update_from_output(self) -> None:
        self.calls.append("update_from_output")

    def finish(self, request_ids: Sequence[str]) -> None:
        self._request_ids = [request_id for request_id in self._request_ids if request_id not in request_ids]

    def close(self) -> None: ...


def fake_engine(steps_in_flight: int) -> tuple[LockstepEngine, FakeModel]:
    """Return an engine of two fake models with one row of 4 tokens, and its theta."""
    theta = FakeModel()
    engine = LockstepEngine(theta, FakeModel(), 8, 2, steps_in_flight=steps_in_flight)
    context = RequestContext(MixtureConfig(), SamplingConfig(max_tokens=4), (), byte_tokenizer())
    engine.scheduler.add(Request("row", 0, (1,), (1,), context))
    return engine, theta


@pytest.mark.parametrize(
    ("steps_in_flight", "order"),
    [
        (1, ["forward", "update_from_output"] * 4),
        (2, ["forward", *["forward", "update_from_output"] * 3, "update_from_output"]),
    ],
)
def test_the_next_step_is_launched_before_the_last_is_collected(steps_in_flight: int, order: list[str]) -> None:
    engine, theta = fake_engine(steps_in_flight)
    while engine.scheduler.running or engine.scheduler.waiting:
        engine.step()
    assert theta.calls == order
    assert (engine.stats.num_steps, engine.stats.num_tokens, engine.stats.num_requests) == (4, 4, 1)


@pytest.mark.parametrize("part", ["forward", "update_from_output"])
def test_an_interrupted_step_poisons_the_engine(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C inside a step: vLLM's cache names blocks that were never computed, which the next call would read."""

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    engine, theta = fake_engine(steps_in_flight=1)
    with monkeypatch.context() as patched:
        patched.setattr(theta, part, interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    with pytest.raises(LockstepError, match="broken off"):
        engine.step()


def drawn(sampler: DualSampler, rows: list[DualPrompt], sampling: SamplingConfig) -> dict[str, DualOutput]:
    return {out.id: out for out in sampler.generate(rows, sampling, progress=False)}


@pytest.mark.slow
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
def test_tokens_and_diagnostics_equal_those_of_one_step(
    sampling: SamplingConfig, sampler: DualSampler, ahead: DualSampler
) -> None:
    """24 rows, 6 at once. Other batches move logits by 1e-6: one of the 1,500 draws flips with a probability below
    1e-2, and the seeds are fixed."""
    before = ahead.stats.as_dict()
    one, two = drawn(sampler, prompts(), sampling), drawn(ahead, prompts(), sampling)
    increase = {name: value - before[name] for name, value in ahead.stats.as_dict().items()}
    assert increase["num_steps"] > 0
    assert increase["num_tokens"] == sum(len(out.token_ids) for out in two.values())  # dropped ones are not counted
    assert increase["num_requests"] == increase["num_forced"] == len(two)
    if sampling.max_tokens == 120:
        assert any(out.finish_reason == "eos" for out in two.values())
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


@pytest.mark.slow
def test_nan_logits_spare_the_others(ahead: DualSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row's logits turn to NaN at its third token; the fourth is in flight by then."""
    sampling = SamplingConfig(max_tokens=6, seed=4)
    healthy = {out.id: out.token_ids for out in ahead.generate(prompts(8), sampling, progress=False)}
    engine, forward = theta_engine(ahead), theta_engine(ahead).forward

    def poisoned(num_rows: int) -> tuple[list[str], torch.Tensor]:
        request_ids, logits = forward(num_rows)
        for index, request_id in enumerate(request_ids):
            row = lockstep(ahead).scheduler.running[request_id]
            if row.id == "row-2" and row.num_drawn == 2:
                logits = logits.clone()
                logits[index, 17] = math.nan
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


@pytest.mark.slow
def test_an_aborted_call_leaves_nothing_behind(ahead: DualSampler) -> None:
    sampling = SamplingConfig(max_tokens=20, seed=2)
    whole = drawn(ahead, prompts(9), sampling)
    for _ in range(3):  # each leaves a step in flight
        run = ahead.run(prompts(), SamplingConfig(max_tokens=30))
        next(run)
        cast("Generator[Any]", run).close()
        assert not lockstep(ahead).scheduler.running
    again = drawn(ahead, prompts(9), sampling)
    assert {key: out.token_ids for key, out in again.items()} == {key: out.token_ids for key, out in whole.items()}


@pytest.mark.slow
def test_concurrent_streams_equal_generate(ahead: DualSampler) -> None:
    """Calls with different settings share their steps."""
    samplings = [SamplingConfig(max_tokens=12, seed=6), SamplingConfig(max_tokens=9, temperature=0)]
    calls = list(zip(prompts(4), samplings * 2, strict=True))
    outs = [ahead.generate([row], sampling, progress=False)[0].token_ids for row, sampling in calls]

    async def collect(row: DualPrompt, sampling: SamplingConfig) -> tuple[int, ...]:
        return tuple([token.token_id async for token in ahead.stream(row, sampling)])

    async def all_rows() -> list[tuple[int, ...]]:
        return await asyncio.gather(*(collect(*call) for call in calls))

    assert asyncio.run(all_rows()) == outs


@pytest.mark.slow
def test_a_row_may_fill_its_context_to_the_last_token(ahead: DualSampler) -> None:
    rows = [DualPrompt("x" * (MAX_MODEL_LEN - 10), "y" * (MAX_MODEL_LEN - 10), id=f"full-{i}") for i in range(3)]
    outs = ahead.generate(rows, SamplingConfig(max_tokens=10, seed=1), progress=False)
    assert all(len(out.token_ids) == 10 or out.finish_reason == "eos" for out in outs)
    assert any(len(out.token_ids) == 10 for out in outs)
