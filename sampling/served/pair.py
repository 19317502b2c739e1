"""A pair of served models that returns both next-token distributions of a row."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import numpy as np

from sampling.served.client import ModelClient
from sampling.served.config import HttpConfig
from sampling.served.replies import NextToken
from sampling.served.support import Ints, MergedSupport, PartialDistribution, merge, partial_distribution


@dataclass(frozen=True, slots=True)
class LogprobRequest:
    """A request for both models' next-token logprobs of one row."""

    key: int  # of the row: its requests stay on one replica where possible
    theta_ids: tuple[int, ...]  # prompt and the tokens drawn so far
    teacher_ids: tuple[int, ...]
    temperature: float
    target_top_p: float | None  # of the trust region; None: there is none
    eos_ids: tuple[int, ...] = ()  # counted as one event, for which the first stands


@dataclass(frozen=True, slots=True)
class LogprobResponse:
    """Both models' next-token logprobs of one row."""

    support: MergedSupport
    is_named: bool  # whether ids that only one model returned were requested from the other
    theta_s: float
    teacher_s: float


class ServedPair:
    """The clients of theta and the teacher."""

    def __init__(self, theta: ModelClient, teacher: ModelClient, config: HttpConfig) -> None:
        self.clients = theta, teacher
        self.num_ids = 0  # ids that both tokenizers have: set before the first request
        self._config = config
        theta.share_batch_locks(teacher)

    async def open(self) -> None:
        """Open both clients. Raises ServerError, ServerRefusedError."""
        tasks = [asyncio.create_task(client.open()) for client in self.clients]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Close both clients, which aborts the requests that the servers still process."""
        await asyncio.gather(*(client.close() for client in self.clients), return_exceptions=True)

    async def tokenize(self, for_theta: str, for_teacher: str) -> tuple[list[int], list[int]]:
        """Return the token ids of one text by theta's server, of the other by the teacher's."""
        theta, teacher = self.clients
        return await asyncio.gather(theta.tokenize(for_theta), teacher.tokenize(for_teacher))

    async def ask(self, request: LogprobRequest) -> LogprobResponse:
        """Return both models' likeliest ids, each with the other's logprobs of them where the servers can name ids.

        Raises RowError for a row that cannot be sampled, ServerError, ServerRefusedError.
        """
        pairs = tuple(zip(self.clients, (request.theta_ids, request.teacher_ids), strict=True))
        (theta, theta_s), (teacher, teacher_s) = await asyncio.gather(
            *(self._top(client, prompt, request) for client, prompt in pairs)
        )
        support = self._merge(theta, teacher, request)
        missing = _missing_ids(support, request.target_top_p)
        can_name = self._config.name_ids and all(client.info.can_name_ids for client in self.clients)
        is_named = can_name and any(len(ids) for ids in missing)
        if is_named:
            named = [self._with_endings(ids, request.eos_ids) for ids in missing]
            theta, teacher = await asyncio.gather(
                *(
                    _with_named(client, prompt, token, ids, request.key)
                    for (client, prompt), token, ids in zip(pairs, (theta, teacher), named, strict=True)
                )
            )
            support = self._merge(theta, teacher, request)
        return LogprobResponse(support, is_named, theta_s, teacher_s)

    async def _top(
        self, client: ModelClient, prompt: tuple[int, ...], request: LogprobRequest
    ) -> tuple[NextToken, float]:
        """Return the likeliest ids and the seconds taken; quadruple k while the tail mass exceeds `max_tail_mass`."""
        start = time.perf_counter()
        top_k, most = self._config.top_k, client.info.max_logprobs
        while True:
            top_k = min(top_k, most)
            token = await client.next_token(prompt, top_k, row=request.key)
            if top_k >= most or self._partial(token, request).tail_share <= self._config.max_tail_mass:
                return token, time.perf_counter() - start
            top_k *= 4

    def _merge(self, theta: NextToken, teacher: NextToken, request: LogprobRequest) -> MergedSupport:
        return merge(self._partial(theta, request), self._partial(teacher, request))

    def _partial(self, token: NextToken, request: LogprobRequest) -> PartialDistribution:
        return partial_distribution(
            token.ids, token.logprobs, token.num_top, self.num_ids, request.temperature, request.eos_ids
        )

    def _with_endings(self, ids: Ints, eos_ids: tuple[int, ...]) -> Ints:
        """Return ids to name, with every ending that both models know in the place of the one that stands for all."""
        if not eos_ids or eos_ids[0] not in ids:
            return ids
        return np.union1d(ids, [token_id for token_id in eos_ids if token_id < self.num_ids])


async def _with_named(client: ModelClient, prompt: tuple[int, ...], token: NextToken, ids: Ints, key: int) -> NextToken:
    """Return `token` extended by the logprobs of `ids`."""
    if not len(ids):
        return token
    named = await client.next_token(prompt, 0, ids.tolist(), row=key)
    return token.extended(named.ids, named.logprobs)


def _missing_ids(support: MergedSupport, top_p: float | None) -> tuple[Ints, Ints]:
    """Return the ids to request from theta and from the teacher: those that only the other one returned.

    With a trust region (`top_p`), only ids of it are requested, and only from theta: the smallest set of the teacher's
    likeliest ids with that mass, or all of them where they have less.
    """
    theta, teacher = support.theta[:-1], support.teacher[:-1]
    theta_lacks, teacher_lacks = np.isneginf(theta), np.isneginf(teacher)
    if top_p is None:
        return support.ids[theta_lacks], support.ids[teacher_lacks]
    region = support.teacher_top
    if support.teacher_top_share >= top_p:
        shares = np.where(support.teacher_top, np.exp(teacher - np.logaddexp.reduce(support.teacher)), 0.0)
        order = np.argsort(-shares, kind="stable")
        region = np.zeros(len(shares), dtype=bool)
        region[order[np.cumsum(shares[order]) - shares[order] < top_p]] = True
    return support.ids[region & theta_lacks], support.ids[:0]
