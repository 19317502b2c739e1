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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sampling.drawer import Drawer
from sampling.errors import RowError
from sampling.http.client import ModelClient, NextToken
from sampling.http.config import HttpConfig
from sampling.http.union import Ints, Known, Union, js_error, known, q_error, unite
from sampling.row import FIGURES, Row, Settings
from sampling.scheduler import Scheduler
from sampling.stats import SamplingStats

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
    union: Union | None
    error: BaseException | None = None
    theta_s: float = 0.0
    teacher_s: float = 0.0


class HttpEngine:
    """Draws the next token of each row whose two replies are there."""

    def __init__(self, theta: ModelClient, teacher: ModelClient, config: HttpConfig) -> None:
        """Asks both servers what they are. Raises ServerError, ServerRefusedError."""
        self._clients = theta, teacher
        self._config = config
        self.num_ids = 0  # ids that both tokenizers know: set before the first row
        self.max_num_seqs = config.max_in_flight
        self.stats = SamplingStats()
        self._drawer = Drawer(self.stats)
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http-engine", daemon=True)
        self._thread.start()
        try:
            self._call(self._open())
        except BaseException:
            self.close()
            raise
        self.theta, self.teacher = (Remote(client.facts.max_model_len) for client in self._clients)
        self.scheduler = Scheduler(self.theta, self.teacher, self.max_num_seqs)

    def close(self) -> None:
        """End every request, close the connections."""
        if not self._thread.is_alive():
            return
        self._call(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def tokenize(self, for_theta: str, for_teacher: str) -> tuple[list[int], list[int]]:
        """One text's ids by theta's server, the other's by the teacher's."""
        theta, teacher = self._clients
        return self._call(theta.tokenize(for_theta)), self._call(teacher.tokenize(for_teacher))

    def abort(self, settings: Settings) -> None:
        """Drop all rows of one call, with their requests."""
        if dropped := self.scheduler.withdraw(settings):
            self._call(self._cancel(dropped))
            self.scheduler.release(dropped)

    @torch.inference_mode()
    def step(self) -> None:
        """Draw one token for every row whose replies are there, after waiting for the first of them."""
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
                raise reply.error
        return replies

    def _draw(self, replies: list[Reply]) -> None:
        """Mix, draw, hand out; ask on for the rows that go on."""
        finished, answered = [], []
        for reply in replies:
            self.stats.theta_s += reply.theta_s
            self.stats.teacher_s += reply.teacher_s
            if reply.error is not None:
                assert isinstance(reply.error, RowError)
                self.stats.num_failed += 1
                self.scheduler.running[reply.request_id].fail(reply.error)
                finished.append(reply.request_id)
            else:
                answered.append(reply)
        unions = [reply.union for reply in answered if reply.union is not None]
        if unions:
            rows = [self.scheduler.running[reply.request_id] for reply in answered]
            ids, theta, teacher, likeliest = _stacked(unions, rows)
            token_ids, figures = self._drawer.draw(rows, theta, teacher, ids.shape[-1], ids, likeliest)
            _bound(figures, unions, rows)
            request_ids = [reply.request_id for reply in answered]
            finished += self._drawer.distribute(request_ids, rows, token_ids, figures)
        self.scheduler.release(finished)
        for reply in answered:
            if (row := self.scheduler.running.get(reply.request_id)) is not None:
                self._ask(reply.request_id, row)

    def _ask(self, request_id: str, row: Row) -> None:
        """Put a row's two requests on their way."""
        tokens = tuple(row.token_ids)
        prompts = row.theta_prompt + tokens, row.teacher_prompt + tokens
        sampling, mixture = row.settings.sampling, row.settings.mixture
        top_p = mixture.target_top_p if mixture.trust_region else None
        work = self._fetch(request_id, row.key, prompts, sampling.temperature, top_p)
        self._loop.call_soon_threadsafe(self._start, request_id, work)

    def _start(self, request_id: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks[request_id] = task
        task.add_done_callback(
            lambda _: self._tasks.pop(request_id, None) if self._tasks.get(request_id) is task else None
        )

    async def _fetch(
        self,
        request_id: str,
        key: int,
        prompts: tuple[tuple[int, ...], tuple[int, ...]],
        temperature: float,
        top_p: float | None,
    ) -> None:
        """What both models say of the next token; what goes wrong is a reply too."""
        try:
            (theta, theta_s), (teacher, teacher_s) = await asyncio.gather(
                *(self._top(client, prompt, key) for client, prompt in zip(self._clients, prompts, strict=True))
            )
            union = unite(self._known(theta, temperature), self._known(teacher, temperature))
            wanted = _unheard(union, top_p)
            if any(len(ids) for ids in wanted) and all(client.facts.can_name_ids for client in self._clients):
                theta, teacher = await asyncio.gather(
                    *(
                        _with_named(client, prompt, reply, ids, key)
                        for client, prompt, reply, ids in zip(
                            self._clients, prompts, (theta, teacher), wanted, strict=True
                        )
                    )
                )
                union = unite(self._known(theta, temperature), self._known(teacher, temperature))
            self._replies.put(Reply(request_id, union, None, theta_s, teacher_s))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._replies.put(Reply(request_id, None, error))

    async def _top(self, client: ModelClient, prompt: tuple[int, ...], key: int) -> tuple[NextToken, float]:
        """The likeliest ids, more of them while the tail is too heavy."""
        start = time.perf_counter()
        top_k = self._config.top_k
        most = client.facts.max_logprobs
        while True:
            top_k = min(top_k, most)
            reply = await client.next_token(prompt, top_k, row=key)
            tail = 1.0 - float(np.exp(reply.logprobs).sum())
            if top_k >= most or tail <= self._config.max_tail_mass:
                return reply, time.perf_counter() - start
            top_k *= 4

    def _known(self, reply: NextToken, temperature: float) -> Known:
        return known(reply.ids, reply.logprobs, reply.num_top, self.num_ids, temperature)

    async def _open(self) -> None:
        await asyncio.gather(*(client.__aenter__() for client in self._clients))

    async def _shut(self) -> None:
        await self._cancel(list(self._tasks))
        await asyncio.gather(*(client.__aexit__(None, None, None) for client in self._clients), return_exceptions=True)

    async def _cancel(self, request_ids: list[str]) -> None:
        tasks = [self._tasks[request_id] for request_id in request_ids if request_id in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _with_named(client: ModelClient, prompt: tuple[int, ...], reply: NextToken, ids: Ints, key: int) -> NextToken:
    """The reply, with the ids that only the other model spoke of."""
    if not len(ids):
        return reply
    named = await client.next_token(prompt, 0, ids.tolist(), row=key)
    both = (np.concatenate([one, other]) for one, other in ((reply.ids, named.ids), (reply.logprobs, named.logprobs)))
    return NextToken(next(both), next(both), reply.num_top)


def _unheard(union: Union, top_p: float | None) -> tuple[Ints, Ints]:
    """Ids to ask theta for, and the teacher: what the other one spoke of and the support may need.

    Within a trust region that the teacher's likeliest ids hold, only those of it matter.
    """
    theta, teacher = union.theta[:-1], union.teacher[:-1]
    theta_lacks, teacher_lacks = np.isneginf(theta), np.isneginf(teacher)
    if top_p is None:
        return union.ids[theta_lacks], union.ids[teacher_lacks]
    region = union.teacher_top
    if union.teacher_top_share >= top_p:
        shares = np.where(union.teacher_top, np.exp(teacher - np.logaddexp.reduce(union.teacher)), 0.0)
        order = np.argsort(-shares, kind="stable")
        region = np.zeros(len(shares), dtype=bool)
        region[order[np.cumsum(shares[order]) - shares[order] < top_p]] = True
    return union.ids[region & theta_lacks], union.ids[:0]


def _stacked(unions: list[Union], rows: list[Row]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids [B, U+1] int64, both models' logits [B, U+1] float64, the teacher's likeliest [B, U+1] bool.

    The bucket is the last column. The weights are those at the rows' temperatures: the mixture divides by it again.
    """
    width = max(len(union.ids) for union in unions)
    ids = np.zeros((len(unions), width + 1), dtype=np.int64)
    likeliest = np.zeros(ids.shape, dtype=bool)
    sides = np.full((2, *ids.shape), -np.inf)
    for place, (union, row) in enumerate(zip(unions, rows, strict=True)):
        num = len(union.ids)
        ids[place, :num], likeliest[place, :num] = union.ids, union.teacher_top
        temperature = row.settings.sampling.temperature or 1.0
        for side, column in zip(sides, (union.theta, union.teacher), strict=True):
            side[place, :num], side[place, -1] = column[:-1] * temperature, column[-1] * temperature
    theta, teacher = map(torch.from_numpy, sides)
    return torch.from_numpy(ids), theta, teacher, torch.from_numpy(likeliest)


def _bound(figures: Tensor, unions: list[Union], rows: list[Row]) -> None:
    """Fill in how far off the figures may be."""
    alpha, log_z = figures[:, FIGURES.index("alpha")].tolist(), figures[:, FIGURES.index("log_z")].tolist()
    for place, (union, row) in enumerate(zip(unions, rows, strict=True)):
        mixture = row.settings.mixture
        top_p = mixture.target_top_p if mixture.trust_region else None
        figures[place, FIGURES.index("q_error")] = q_error(union, alpha[place], log_z[place], top_p)
        figures[place, FIGURES.index("js_error")] = js_error(union)
