"""The admission of rows, which keeps both engines on the same ones.

A row starts in a step only if both engines can prefill its whole prompt in that step, and if both KV caches
can hold it to its last token beside all that run: then neither engine ever splits a prompt or preempts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from sampling.engine.request import Request, RequestContext
from sampling.errors import PromptTooLongError, RowCapacityError


class Side(Protocol):
    """What admission needs to know of an engine."""

    max_model_len: int
    max_num_batched_tokens: int
    num_blocks: int

    def num_blocks_for(self, num_tokens: int) -> int: ...


class Scheduler:
    """The rows that wait, and those that run."""

    def __init__(self, theta: Side, teacher: Side, max_num_seqs: int, *, shared_weights: bool = False) -> None:
        """`one_copy`: both sides are one engine's, which then bears the costs of both."""
        self.waiting: deque[Request] = deque()
        self.running: dict[str, Request] = {}  # by request id, in order of admission
        self._sides = (theta, teacher)
        self._max_num_seqs = max_num_seqs
        self._engines = (theta,) if shared_weights else (theta, teacher)
        self._free = [engine.num_blocks for engine in self._engines]
        self._taken: dict[str, tuple[int, ...]] = {}
        self._num_admitted = 0

    def check(self, row: Request) -> None:
        """Raises PromptTooLongError or RowCapacityError for a row that could never run."""
        max_tokens = row.context.sampling.max_tokens
        for name, side, prompt in zip(("theta", "teacher"), self._sides, _prompts(row), strict=True):
            total = len(prompt) + max_tokens
            if total > side.max_model_len:
                raise PromptTooLongError(
                    f"row {row.id}: {name}'s prompt has {len(prompt)} tokens, {total} with max_tokens"
                    f" {max_tokens}; its context is {side.max_model_len}; shorten the prompt or lower max_tokens"
                )
        names = ("theta", "teacher") if len(self._engines) == 2 else ("theta and teacher",)
        for name, engine, blocks in zip(names, self._engines, self._blocks(row), strict=True):
            if blocks > engine.num_blocks:
                raise RowCapacityError(
                    f"row {row.id}: prompt and {max_tokens} tokens take {blocks} blocks of {name}'s KV cache,"
                    f" which has {engine.num_blocks}; raise kv_cache_memory_bytes or lower max_tokens"
                )

    def add(self, row: Request) -> None:
        """Queue a row. Raises PromptTooLongError or RowCapacityError when it could never run."""
        self.check(row)
        self.waiting.append(row)

    def withdraw(self, context: RequestContext) -> list[str]:
        """Drop the waiting rows of one call; returns the request ids of those that run, for the engine to end."""
        kept = [row for row in self.waiting if row.context is not context]
        self.waiting.clear()
        self.waiting.extend(kept)
        return [request_id for request_id, row in self.running.items() if row.context is context]

    def admit(self) -> list[tuple[str, Request]]:
        """Move the rows that may start now from waiting to running; returns them with new request ids."""
        decoding = self._per_engine((len(self.running), len(self.running)))
        budgets = [engine.max_num_batched_tokens - num for engine, num in zip(self._engines, decoding, strict=True)]
        admitted = []
        while self.waiting and len(self.running) < self._max_num_seqs:
            row = self.waiting[0]
            costs = self._per_engine([len(prompt) for prompt in _prompts(row)])
            blocks = self._blocks(row)
            if any(_exceeds(costs, budgets)) or any(_exceeds(blocks, self._free)):
                break
            self.waiting.popleft()
            budgets = [budget - cost for budget, cost in zip(budgets, costs, strict=True)]
            self._free = [free - taken for free, taken in zip(self._free, blocks, strict=True)]
            request_id = str(self._num_admitted)
            self._num_admitted += 1
            self.running[request_id], self._taken[request_id] = row, blocks
            admitted.append((request_id, row))
        assert self.running or not self.waiting, "a row that fits no empty engine passed the check"
        return admitted

    def release(self, request_ids: Iterable[str]) -> None:
        """Forget finished rows; their blocks are free for the next step."""
        for request_id in request_ids:
            del self.running[request_id]
            blocks = self._taken.pop(request_id)
            self._free = [free + taken for free, taken in zip(self._free, blocks, strict=True)]

    def _blocks(self, row: Request) -> tuple[int, ...]:
        max_tokens = row.context.sampling.max_tokens
        return self._per_engine(
            [
                side.num_blocks_for(len(prompt) + max_tokens)
                for side, prompt in zip(self._sides, _prompts(row), strict=True)
            ]
        )

    def _per_engine(self, costs: Sequence[int]) -> tuple[int, ...]:
        """What theta's side costs with what the teacher's does, by engine."""
        return tuple(costs) if len(self._engines) == len(costs) else (sum(costs),)


def _prompts(row: Request) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return row.theta_prompt, row.teacher_prompt


def _exceeds(wanted: Iterable[int], limits: Iterable[int]) -> Iterable[bool]:
    return (want > limit for want, limit in zip(wanted, limits, strict=True))
