"""Two served models, asked for the next token of the same row."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import numpy as np

from sampling.served.client import ModelClient, NextToken
from sampling.served.config import HttpConfig
from sampling.served.support import Ints, Known, MergedSupport, known, unite


@dataclass(frozen=True, slots=True)
class LogprobRequest:
    """Where a row stands: what both models are asked of it."""

    key: int  # of the row: its requests stay on one replica where they can
    theta_ids: tuple[int, ...]  # prompt with the tokens drawn so far
    teacher_ids: tuple[int, ...]
    temperature: float
    target_top_p: float | None  # of the trust region; None: there is none


@dataclass(frozen=True, slots=True)
class LogprobResponse:
    """What both models say of the next token."""

    support: MergedSupport
    is_named: bool  # whether a server was asked for ids that only the other one named
    theta_s: float
    teacher_s: float


class ServedPair:
    """Theta's servers with the teacher's."""

    def __init__(self, theta: ModelClient, teacher: ModelClient, config: HttpConfig) -> None:
        self.clients = theta, teacher
        self.num_ids = 0  # ids that both tokenizers know: set before the first question
        self._config = config
        theta.share_turns(teacher)

    async def open(self) -> None:
        """Ask both what they are. Raises ServerError, ServerRefusedError."""
        tasks = [asyncio.create_task(client.open()) for client in self.clients]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Close every connection, which ends what the servers still work on."""
        await asyncio.gather(*(client.close() for client in self.clients), return_exceptions=True)

    async def tokenize(self, for_theta: str, for_teacher: str) -> tuple[list[int], list[int]]:
        """One text's ids by theta's server, the other's by the teacher's."""
        theta, teacher = self.clients
        first, second = await asyncio.gather(theta.tokenize(for_theta), teacher.tokenize(for_teacher))
        return first, second

    async def ask(self, question: LogprobRequest) -> LogprobResponse:
        """Both models' likeliest ids, each with the other's logprobs of them where the servers can name ids.

        Raises RowError where the row is at fault, ServerError, ServerRefusedError.
        """
        prompts = question.theta_ids, question.teacher_ids
        pairs = tuple(zip(self.clients, prompts, strict=True))
        (theta, theta_s), (teacher, teacher_s) = await asyncio.gather(
            *(self._top(client, prompt, question) for client, prompt in pairs)
        )
        support = self._unite(theta, teacher, question.temperature)
        wanted = _unheard(support, question.target_top_p)
        can_name = self._config.name_ids and all(client.info.can_name_ids for client in self.clients)
        is_named = can_name and any(len(ids) for ids in wanted)
        if is_named:
            theta, teacher = await asyncio.gather(
                *(
                    _with_named(client, prompt, reply, ids, question.key)
                    for (client, prompt), reply, ids in zip(pairs, (theta, teacher), wanted, strict=True)
                )
            )
            support = self._unite(theta, teacher, question.temperature)
        return LogprobResponse(support, is_named, theta_s, teacher_s)

    async def _top(
        self, client: ModelClient, prompt: tuple[int, ...], question: LogprobRequest
    ) -> tuple[NextToken, float]:
        """The likeliest ids, more of them while the tail is too heavy at the row's temperature."""
        start = time.perf_counter()
        top_k = self._config.top_k
        most = client.info.max_logprobs
        while True:
            top_k = min(top_k, most)
            reply = await client.next_token(prompt, top_k, row=question.key)
            if top_k >= most or self._known(reply, question.temperature).tail_share <= self._config.max_tail_mass:
                return reply, time.perf_counter() - start
            top_k *= 4

    def _unite(self, theta: NextToken, teacher: NextToken, temperature: float) -> MergedSupport:
        return unite(self._known(theta, temperature), self._known(teacher, temperature))

    def _known(self, reply: NextToken, temperature: float) -> Known:
        return known(reply.ids, reply.logprobs, reply.num_top, self.num_ids, temperature)


async def _with_named(client: ModelClient, prompt: tuple[int, ...], reply: NextToken, ids: Ints, key: int) -> NextToken:
    """The reply, with the ids that only the other model spoke of."""
    if not len(ids):
        return reply
    named = await client.next_token(prompt, 0, ids.tolist(), row=key)
    both = (np.concatenate([one, other]) for one, other in ((reply.ids, named.ids), (reply.logprobs, named.logprobs)))
    return NextToken(next(both), next(both), reply.num_top)


def _unheard(support: MergedSupport, top_p: float | None) -> tuple[Ints, Ints]:
    """Ids to ask theta for, and the teacher: what the other one spoke of and the support may need.

    Within a trust region that the teacher's likeliest ids hold, only those of it matter.
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
