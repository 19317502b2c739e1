"""Two served models, coupled token by token.

Every running row has one request in flight to each server, or waits for the drawing thread: so both servers' batches
stay full. Requests live in a thread with an event loop of its own; whoever calls `step` mixes and draws.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sampling.engine.drawer import Drawer
from sampling.engine.request import Request, RequestContext
from sampling.engine.scheduler import Scheduler
from sampling.engine.stats import SamplingStats
from sampling.errors import RowError
from sampling.results import DIAGNOSTICS
from sampling.served.client import ModelClient
from sampling.served.config import HttpConfig
from sampling.served.pair import LogprobRequest, LogprobResponse, ServedPair
from sampling.served.support import MergedSupport, js_error, q_error

ENDLESS = 1 << 60  # the servers plan their own KV caches
POLL_S = 0.5  # Ctrl-C is heard this often while replies are awaited


@dataclass(slots=True)
class Remote:
    """A served model, as the scheduler sees it."""

    max_model_len: int
    max_num_batched_tokens: int = ENDLESS
    num_blocks: int = ENDLESS

    def num_blocks_for(self, num_tokens: int) -> int:
        """Nothing is planned here."""
        return num_tokens


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a row's two requests."""

    request_id: str
    answer: LogprobResponse | None
    error: BaseException | None = None


class HttpEngine:
    """Draws the next token of each row whose two replies are there."""

    def __init__(self, theta: ModelClient, teacher: ModelClient, config: HttpConfig) -> None:
        """Asks both servers what they are. Raises ServerError, ServerRefusedError."""
        self._pair = ServedPair(theta, teacher, config)
        self.max_num_seqs = config.max_in_flight
        self.stats = SamplingStats()
        self._drawer = Drawer(self.stats)
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._broken: BaseException | None = None  # every caller is told: replies beside this one are lost
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http-engine", daemon=True)
        self._thread.start()
        try:
            self._call(self._pair.open())
        except BaseException:
            self.close()
            raise
        self.theta, self.teacher = (Remote(client.info.max_model_len) for client in (theta, teacher))
        self.scheduler = Scheduler(self.theta, self.teacher, self.max_num_seqs)

    def close(self) -> None:
        """End every request, close the connections."""
        if not self._thread.is_alive():
            return
        self._call(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def num_ids(self) -> int:
        """Ids that both tokenizers know: set before the first row."""
        return self._pair.num_ids

    @num_ids.setter
    def num_ids(self, num_ids: int) -> None:
        self._pair.num_ids = num_ids

    def tokenize(self, for_theta: str, for_teacher: str) -> tuple[list[int], list[int]]:
        """One text's ids by theta's server, the other's by the teacher's."""
        return cast("tuple[list[int], list[int]]", self._call(self._pair.tokenize(for_theta, for_teacher)))

    def abort(self, context: RequestContext) -> None:
        """Drop all rows of one call, with their requests."""
        if dropped := self.scheduler.withdraw(context):
            self._call(self._cancel(dropped))
            self.scheduler.release(dropped)

    @torch.inference_mode()
    def step(self) -> None:
        """Draw one token for every row whose replies are there, after waiting for the first of them."""
        if self._broken is not None:
            raise self._broken
        start = time.perf_counter()
        for request_id, row in self.scheduler.admit():
            self._ask(request_id, row)
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
        """At least one reply of a row that still runs, and all that are there beside it."""
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
                self._broken = reply.error
                raise reply.error
        return replies

    def _draw(self, replies: list[Reply]) -> None:
        """Mix, draw, hand out; ask on for the rows that go on."""
        finished, answered = [], []
        supports: list[MergedSupport] = []
        for reply in replies:
            if reply.answer is None:
                assert isinstance(reply.error, RowError)
                self.stats.num_failed += 1
                self.scheduler.running[reply.request_id].fail(reply.error)
                finished.append(reply.request_id)
                continue
            answered.append(reply.request_id)
            supports.append(reply.answer.support)
            self.stats.num_named += reply.answer.is_named
            self.stats.theta_s += reply.answer.theta_s
            self.stats.teacher_s += reply.answer.teacher_s
        if supports:
            rows = [self.scheduler.running[request_id] for request_id in answered]
            ids, theta, teacher, likeliest = stack(supports, [row.context.sampling.temperature for row in rows])
            token_ids, diagnostics = self._drawer.draw(rows, theta, teacher, ids.shape[-1], ids, likeliest)
            _bound(diagnostics, supports, rows)
            finished += self._drawer.distribute(answered, rows, token_ids, diagnostics)
        self.scheduler.release(finished)
        for request_id in answered:
            if (row := self.scheduler.running.get(request_id)) is not None:
                self._ask(request_id, row)

    def _ask(self, request_id: str, row: Request) -> None:
        """Put a row's two requests on their way."""
        tokens = tuple(row.token_ids)
        sampling, mixture = row.context.sampling, row.context.mixture
        question = LogprobRequest(
            key=row.key,
            theta_ids=row.theta_prompt + tokens,
            teacher_ids=row.teacher_prompt + tokens,
            temperature=sampling.temperature,
            target_top_p=mixture.target_top_p if mixture.trust_region else None,
        )
        self._loop.call_soon_threadsafe(self._start, request_id, self._reply(request_id, question))

    def _start(self, request_id: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks[request_id] = task
        task.add_done_callback(
            lambda _: self._tasks.pop(request_id, None) if self._tasks.get(request_id) is task else None
        )

    async def _reply(self, request_id: str, question: LogprobRequest) -> None:
        """Put what both models say into the replies; what goes wrong is a reply too."""
        try:
            reply = Reply(request_id, await self._pair.ask(question))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            reply = Reply(request_id, None, error)
        self._replies.put(reply)

    async def _shut(self) -> None:
        await self._cancel(list(self._tasks))
        await self._pair.close()

    async def _cancel(self, request_ids: list[str]) -> None:
        tasks = [self._tasks[request_id] for request_id in request_ids if request_id in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def stack(supports: list[MergedSupport], temperatures: list[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids [B, U+1] int64, both models' logits [B, U+1] float64, the teacher's likeliest [B, U+1] bool.

    The bucket is the last column. The weights are those at the rows' temperatures: the mixture divides by it again.
    """
    width = max(len(support.ids) for support in supports)
    ids = np.zeros((len(supports), width + 1), dtype=np.int64)
    likeliest = np.zeros(ids.shape, dtype=bool)
    sides = np.full((2, *ids.shape), -np.inf)
    for place, (support, temperature) in enumerate(zip(supports, temperatures, strict=True)):
        num = len(support.ids)
        ids[place, :num], likeliest[place, :num] = support.ids, support.teacher_top
        for side, column in zip(sides, (support.theta, support.teacher), strict=True):
            weights = column * (temperature or 1.0)
            side[place, :num], side[place, -1] = weights[:-1], weights[-1]
    theta, teacher = map(torch.from_numpy, sides)
    return torch.from_numpy(ids), theta, teacher, torch.from_numpy(likeliest)


def _bound(diagnostics: Tensor, supports: list[MergedSupport], rows: list[Request]) -> None:
    """Fill in how far off the figures may be."""
    alpha, log_z = (
        diagnostics[:, DIAGNOSTICS.index("alpha")].tolist(),
        diagnostics[:, DIAGNOSTICS.index("log_z")].tolist(),
    )
    for place, (support, row) in enumerate(zip(supports, rows, strict=True)):
        mixture = row.context.mixture
        top_p = mixture.target_top_p if mixture.trust_region else None
        diagnostics[place, DIAGNOSTICS.index("q_error")] = q_error(support, alpha[place], log_z[place], top_p)
        diagnostics[place, DIAGNOSTICS.index("js_error")] = js_error(support)
