"""The HTTP engine: draws the tokens of rows from the mixture of two served models.

Every running row has one request in flight to each server, or waits for the drawing thread, so that both servers'
batches stay full. Requests run on an event loop in a thread of their own; the thread that calls `step` mixes and draws.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Collection, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sampling.engine.mixture_sampler import MixtureSampler
from sampling.engine.request import Request, RequestContext
from sampling.engine.scheduler import Scheduler
from sampling.engine.stats import SamplingStats
from sampling.errors import RowError
from sampling.results import DIAGNOSTICS
from sampling.served.client import ModelClient
from sampling.served.config import HttpConfig
from sampling.served.pair import LogprobRequest, LogprobResponse, ServedPair
from sampling.served.support import MergedSupport, js_error, q_error

UNLIMITED = 1 << 60  # the servers schedule their own KV caches
POLL_S = 0.5  # the wait for replies is interrupted this often, for Ctrl-C

T = TypeVar("T")


@dataclass(slots=True)
class ServedModel:
    """The scheduler's limits of a served model: its context alone."""

    max_model_len: int
    max_num_batched_tokens: int = UNLIMITED
    num_blocks: int = UNLIMITED

    def num_blocks_for(self, num_tokens: int) -> int:
        """Return the KV blocks of a row, here one a token: they are not limited."""
        return num_tokens


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of a row's two requests: a response or an error."""

    request_id: str
    response: LogprobResponse | None
    error: BaseException | None = None


class HttpEngine:
    """An engine that draws a row's next token when the replies of both servers have arrived."""

    def __init__(self, theta: ModelClient, teacher: ModelClient, config: HttpConfig) -> None:
        """Start the event loop's thread and open both clients. Raises ServerError, ServerRefusedError."""
        self._pair = ServedPair(theta, teacher, config)
        self.max_num_seqs = config.max_in_flight
        self.stats = SamplingStats()
        self._sampler = MixtureSampler(self.stats)
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._fatal: BaseException | None = None  # raised by every later step: replies next to this one are lost
        self._tasks: dict[asyncio.Task[None], str] = {}  # the rows' requests, with their request ids
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http-engine", daemon=True)
        self._thread.start()
        try:
            self._call(self._pair.open())
        except BaseException:
            self.close()
            raise
        self.theta, self.teacher = (ServedModel(client.info.max_model_len) for client in (theta, teacher))
        self.scheduler = Scheduler(self.theta, self.teacher, self.max_num_seqs)

    def close(self) -> None:
        """Cancel every request and close the connections."""
        if not self._thread.is_alive():
            return
        self._call(self._cancel())
        self._call(self._pair.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def num_ids(self) -> int:
        """Number of ids that both tokenizers have; set before the first row."""
        return self._pair.num_ids

    @num_ids.setter
    def num_ids(self, num_ids: int) -> None:
        self._pair.num_ids = num_ids

    def tokenize(self, for_theta: str, for_teacher: str) -> tuple[list[int], list[int]]:
        """Return the token ids of one text by theta's server, of the other by the teacher's."""
        return self._call(self._pair.tokenize(for_theta, for_teacher))

    def abort(self, context: RequestContext) -> None:
        """Drop all rows of one call and cancel their requests."""
        if dropped := self.scheduler.withdraw(context):
            self._call(self._cancel(dropped))
            self.scheduler.release(dropped)

    @torch.inference_mode()
    def step(self) -> None:
        """Wait for the first reply, then draw one token for every row whose reply has arrived."""
        if self._fatal is not None:
            raise self._fatal
        start = time.perf_counter()
        for request_id, row in self.scheduler.admit():
            self._send(request_id, row)
        if not self.scheduler.running:
            return
        replies = self._await_replies()
        mixing = time.perf_counter()
        self._draw(replies)
        now = time.perf_counter()
        self.stats.mixing_s += now - mixing
        self.stats.total_s += now - start
        self.stats.num_steps += 1

    def _await_replies(self) -> list[Reply]:
        """Return all replies of running rows that have arrived, at least one."""
        replies: list[Reply] = []
        while not replies:
            try:
                found = [self._replies.get(timeout=POLL_S)]
            except queue.Empty:
                continue
            while not self._replies.empty():
                found.append(self._replies.get())
            replies = [reply for reply in found if reply.request_id in self.scheduler.running]
        for reply in replies:
            if reply.error is not None and not isinstance(reply.error, RowError):
                self._fatal = reply.error
                raise reply.error
        return replies

    def _draw(self, replies: list[Reply]) -> None:
        """Mix, draw and distribute tokens; send the next requests of the rows that continue."""
        finished, answered = [], []
        supports: list[MergedSupport] = []
        for reply in replies:
            if reply.response is None:
                assert isinstance(reply.error, RowError)
                self.stats.num_failed += 1
                self.scheduler.running[reply.request_id].fail(reply.error)
                finished.append(reply.request_id)
                continue
            answered.append(reply.request_id)
            supports.append(reply.response.support)
            self.stats.num_named += reply.response.is_named
            self.stats.theta_s += reply.response.theta_s
            self.stats.teacher_s += reply.response.teacher_s
        if supports:
            rows = [self.scheduler.running[request_id] for request_id in answered]
            ids, theta, teacher, likeliest = stack(supports, [row.context.sampling.temperature for row in rows])
            token_ids, diagnostics = self._sampler.draw(rows, theta, teacher, ids.shape[-1], ids, likeliest)
            _fill_errors(diagnostics, supports, rows)
            finished += self._sampler.distribute(answered, rows, token_ids, diagnostics)
        self.scheduler.release(finished)
        for request_id in answered:
            if (row := self.scheduler.running.get(request_id)) is not None:
                self._send(request_id, row)

    def _send(self, request_id: str, row: Request) -> None:
        """Start a row's two requests on the event loop."""
        tokens = tuple(row.token_ids)
        request = LogprobRequest(
            key=row.key,
            theta_ids=row.theta_prompt + tokens,
            teacher_ids=row.teacher_prompt + tokens,
            temperature=row.context.sampling.temperature,
            target_top_p=_top_p(row),
            eos_ids=row.context.merged_ids,
        )
        self._loop.call_soon_threadsafe(self._start, request_id, request)

    def _start(self, request_id: str, request: LogprobRequest) -> None:
        task = self._loop.create_task(self._reply(request_id, request))
        self._tasks[task] = request_id
        task.add_done_callback(self._tasks.pop)

    async def _reply(self, request_id: str, request: LogprobRequest) -> None:
        """Queue the response to a row's requests, or their error."""
        try:
            reply = Reply(request_id, await self._pair.ask(request))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            reply = Reply(request_id, None, error)
        self._replies.put(reply)

    async def _cancel(self, request_ids: Collection[str] | None = None) -> None:
        """Cancel the requests of these rows (None: of all). On the event loop, after every `_start` before it."""
        tasks = [task for task, id_ in self._tasks.items() if request_ids is None or id_ in request_ids]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def stack(supports: list[MergedSupport], temperatures: list[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ids [B, U+1] int64, both models' logits [B, U+1] float64, the teacher's likeliest ids [B, U+1] bool.

    The tail is the last column. Weights at a row's temperature are multiplied by it: the mixture divides by it again.
    """
    width = max(len(support.ids) for support in supports)
    ids = np.zeros((len(supports), width + 1), dtype=np.int64)
    likeliest = np.zeros(ids.shape, dtype=bool)
    sides = np.full((2, *ids.shape), -np.inf)
    for index, (support, temperature) in enumerate(zip(supports, temperatures, strict=True)):
        num = len(support.ids)
        ids[index, :num], likeliest[index, :num] = support.ids, support.teacher_top
        for side, column in zip(sides, (support.theta, support.teacher), strict=True):
            logits = column * (temperature or 1.0)
            side[index, :num], side[index, -1] = logits[:-1], logits[-1]
    theta, teacher = map(torch.from_numpy, sides)
    return torch.from_numpy(ids), theta, teacher, torch.from_numpy(likeliest)


def _top_p(row: Request) -> float | None:
    mixture = row.context.mixture
    return mixture.target_top_p if mixture.trust_region else None


def _fill_errors(diagnostics: Tensor, supports: list[MergedSupport], rows: list[Request]) -> None:
    """Write the error bounds of q* and JS into `diagnostics` [B, diagnostics]."""
    columns = {name: diagnostics[:, index] for index, name in enumerate(DIAGNOSTICS)}
    alphas, log_zs = columns["alpha"].tolist(), columns["log_z"].tolist()
    for index, (support, row) in enumerate(zip(supports, rows, strict=True)):
        columns["q_error"][index] = q_error(support, alphas[index], log_zs[index], _top_p(row))
        columns["js_error"][index] = js_error(support)
