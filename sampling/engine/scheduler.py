"""Admission control: the rows that both models' own vLLM schedulers can start in the next step.

A row starts in a step only if both models can prefill its whole prompt in that step and both KV caches can hold it to
its last token beside all running rows: then neither vLLM ever splits a prompt or preempts, and both always run the same
rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sampling.engine.model import ModelLimits
from sampling.engine.request import Request, RequestContext
from sampling.errors import PromptTooLongError, RowCapacityError


class Scheduler:
    """The waiting and the running rows."""

    def __init__(
        self, theta: ModelLimits, teacher: ModelLimits, max_num_seqs: int, *, shared_weights: bool = False
    ) -> None:
        """`shared_weights`: both are views of one engine, which bears the costs of both."""
        self.waiting: deque[Request] = deque()
        self.running: dict[str, Request] = {}  # by request id, in order of admission
        self._models = (theta, teacher)
        self._max_num_seqs = max_num_seqs
        self._engines = {"theta and teacher": theta} if shared_weights else {"theta": theta, "teacher": teacher}
        self._free = np.array([engine.num_blocks for engine in self._engines.values()])  # [engines] int64
        self._taken: dict[str, NDArray[np.int64]] = {}  # by request id, as _free
        self._num_admitted = 0

    def check(self, row: Request) -> None:
        """Raise PromptTooLongError or RowCapacityError for a row that could never run."""
        max_tokens = row.context.sampling.max_tokens
        prompts = row.theta_prompt, row.teacher_prompt
        for name, model, prompt in zip(("theta", "teacher"), self._models, prompts, strict=True):
            total = len(prompt) + max_tokens
            if total > model.max_model_len:
                raise PromptTooLongError(
                    f"row {row.id}: {name}'s prompt has {len(prompt)} tokens, {total} with max_tokens"
                    f" {max_tokens}; its context is {model.max_model_len}; shorten the prompt or lower max_tokens"
                )
        for (name, engine), blocks in zip(self._engines.items(), self._blocks(row), strict=True):
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
        """Drop the waiting rows of one call; return the request ids of its running rows, for the engine to end."""
        self.waiting = deque(row for row in self.waiting if row.context is not context)
        return [request_id for request_id, row in self.running.items() if row.context is context]

    def admit(self) -> list[tuple[str, Request]]:
        """Move the rows that may start now from waiting to running; return them with new request ids."""
        budgets = np.array([engine.max_num_batched_tokens for engine in self._engines.values()])
        budgets -= self._per_engine((len(self.running), len(self.running)))  # one token for each running row
        admitted = []
        while self.waiting and len(self.running) < self._max_num_seqs:
            row = self.waiting[0]
            costs, blocks = self._per_engine((len(row.theta_prompt), len(row.teacher_prompt))), self._blocks(row)
            if (costs > budgets).any() or (blocks > self._free).any():
                break
            self.waiting.popleft()
            budgets -= costs
            self._free -= blocks
            request_id = str(self._num_admitted)
            self._num_admitted += 1
            self.running[request_id], self._taken[request_id] = row, blocks
            admitted.append((request_id, row))
        assert self.running or not self.waiting, "a row that fits no empty engine passed the check"
        return admitted

    def release(self, request_ids: Iterable[str]) -> None:
        """Remove finished rows; their blocks are free for the next step."""
        for request_id in request_ids:
            del self.running[request_id]
            self._free += self._taken.pop(request_id)

    def _blocks(self, row: Request) -> NDArray[np.int64]:
        max_tokens = row.context.sampling.max_tokens
        theta, teacher = self._models
        return self._per_engine(
            (
                theta.num_blocks_for(len(row.theta_prompt) + max_tokens),
                teacher.num_blocks_for(len(row.teacher_prompt) + max_tokens),
            )
        )

    def _per_engine(self, costs: Sequence[int]) -> NDArray[np.int64]:
        """Return theta's and the teacher's costs, summed where both are one engine."""
        return np.array(costs if len(self._engines) == 2 else [sum(costs)])
