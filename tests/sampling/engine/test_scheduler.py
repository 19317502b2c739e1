"""Tests of the scheduler's admission."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling import MixtureConfig, SamplingConfig
from sampling.engine.request import Request, RequestContext
from sampling.engine.scheduler import Scheduler
from sampling.errors import PromptTooLongError, RowCapacityError


@dataclass
class Limits:
    """Limits of a model, without a model."""

    max_model_len: int = 100
    max_num_batched_tokens: int = 100
    num_blocks: int = 50
    block_size: int = 10

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)


def make_row(theta: int, teacher: int, max_tokens: int = 10, name: str = "row") -> Request:
    sampling = SamplingConfig(max_tokens=max_tokens)
    shared = RequestContext(MixtureConfig.preset("balanced"), sampling, (), cast(Any, None), deque())
    return Request(name, 0, (1,) * theta, (1,) * teacher, shared)


def filled(scheduler: Scheduler, *rows: Request) -> list[Request]:
    scheduler.waiting.extend(rows)
    return [row for _, row in scheduler.admit()]


def test_rows_start_in_order_up_to_max_num_seqs() -> None:
    scheduler = Scheduler(Limits(), Limits(), max_num_seqs=2)
    rows = [make_row(5, 5) for _ in range(3)]
    assert filled(scheduler, *rows) == rows[:2]
    assert list(scheduler.waiting) == rows[2:]


@pytest.mark.parametrize("theta_first", [True, False])
def test_both_prefill_budgets_bind(theta_first: bool) -> None:
    """Two prompts of 60 tokens never start in one step of 100, whichever model they are for."""
    scheduler = Scheduler(Limits(), Limits(), max_num_seqs=9)
    rows = [make_row(60, 5) if theta_first else make_row(5, 60) for _ in range(2)]
    assert filled(scheduler, *rows) == rows[:1]
    assert [row for _, row in scheduler.admit()] == rows[1:]


def test_running_rows_take_one_token_of_the_budget_each() -> None:
    scheduler = Scheduler(Limits(), Limits(), max_num_seqs=9)
    assert len(filled(scheduler, *[make_row(1, 1) for _ in range(3)])) == 3
    assert filled(scheduler, make_row(98, 1)) == []
    assert len(scheduler.admit()) == 0
    scheduler.release(["0"])
    assert len(scheduler.admit()) == 1


@pytest.mark.parametrize(("theta_blocks", "teacher_blocks"), [(4, 50), (50, 4)])
def test_a_row_waits_until_both_caches_hold_it_to_its_last_token(theta_blocks: int, teacher_blocks: int) -> None:
    scheduler = Scheduler(Limits(num_blocks=theta_blocks), Limits(num_blocks=teacher_blocks), max_num_seqs=9)
    first, second = make_row(15, 15, 15), make_row(15, 15, 15)  # 30 tokens are 3 of 4 blocks
    assert filled(scheduler, first, second) == [first]
    assert scheduler.admit() == []
    scheduler.release(["0"])
    assert [row for _, row in scheduler.admit()] == [second]


def test_impossible_rows_are_refused_by_name() -> None:
    scheduler = Scheduler(Limits(), Limits(max_model_len=40, num_blocks=3), max_num_seqs=9)
    scheduler.check(make_row(90, 20))
    with pytest.raises(
        PromptTooLongError, match="theta's prompt has 91 tokens, 101 with max_tokens 10; its context is 100"
    ):
        scheduler.check(make_row(91, 20))
    with pytest.raises(PromptTooLongError, match="teacher's prompt"):
        scheduler.check(make_row(20, 31))
    with pytest.raises(RowCapacityError, match="4 blocks of teacher's KV cache, which has 3"):
        scheduler.check(make_row(20, 30))


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30)), max_size=40), st.randoms())
def test_no_step_overruns_a_budget_and_every_row_runs_once(sizes: list[tuple[int, int, int]], random: Any) -> None:
    models = Limits(num_blocks=12), Limits(num_blocks=15)
    scheduler = Scheduler(*models, max_num_seqs=5)
    rows = [make_row(*size) for size in sizes]
    scheduler.waiting.extend(rows)
    started: list[Request] = []
    while scheduler.waiting or scheduler.running:
        num_before = len(scheduler.running)
        admitted = [row for _, row in scheduler.admit()]
        started += admitted
        assert len(scheduler.running) <= 5
        for side, prompt in ((0, "theta_prompt"), (1, "teacher_prompt")):
            model = models[side]
            assert num_before + sum(len(getattr(row, prompt)) for row in admitted) <= model.max_num_batched_tokens
            held = sum(
                model.num_blocks_for(len(getattr(row, prompt)) + row.context.sampling.max_tokens)
                for row in scheduler.running.values()
            )
            assert held <= model.num_blocks
        assert scheduler.running, "nothing runs and nothing can start: dead-lock"
        scheduler.release([random.choice(list(scheduler.running))])
    assert started == rows
