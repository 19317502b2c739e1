"""How far a q* of two servers' likeliest ids is from the exact one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import numpy as np
import torch

from sampling.config import MixtureConfig, SamplingConfig
from sampling.mixture.mixture import mix
from sampling.served.client import ModelClient
from sampling.served.config import HttpConfig
from sampling.served.engine import stack
from sampling.served.pair import LogprobRequest, ServedPair
from sampling.served.support import MergedSupport, js_error, q_error


@dataclass(frozen=True, slots=True)
class Distances:
    """One number a question, each [N] float64."""

    q: np.ndarray  # total variation between the q* that is drawn from and the exact one
    q_bound: np.ndarray  # what the token's q_error says
    js: np.ndarray  # the exact JS less the one that is said, nats
    js_bound: np.ndarray
    alpha: np.ndarray  # absolute difference
    num_requests: float  # a question, of both servers


@asynccontextmanager
async def opened(urls: tuple[str, str], config: HttpConfig, num_ids: int) -> AsyncIterator[ServedPair]:
    """Theta's server with the teacher's."""
    clients = [ModelClient(name, [url], config) for name, url in zip(("theta", "teacher"), urls, strict=True)]
    pair = ServedPair(clients[0], clients[1], config)
    pair.num_ids = num_ids
    async with AsyncExitStack() as stack_:
        stack_.push_async_callback(pair.close)
        await pair.open()
        yield pair


async def ask_all(pair: ServedPair, questions: Sequence[LogprobRequest]) -> list[MergedSupport]:
    """What both models say of each."""
    return [answer.support for answer in await asyncio.gather(*map(pair.ask, questions))]


async def distances(
    urls: tuple[str, str], num_ids: int, questions: Sequence[LogprobRequest], config: HttpConfig, mixture: MixtureConfig
) -> Distances:
    """Ask twice: for all ids, then as `config` says."""
    async with opened(urls, config.model_copy(update={"top_k": 1 << 30}), num_ids) as pair:
        whole = await ask_all(pair, questions)
    async with opened(urls, config, num_ids) as pair:
        before = sum(client.num_requests for client in pair.clients)
        parts = await ask_all(pair, questions)
        num_requests = sum(client.num_requests for client in pair.clients) - before
    temperature = questions[0].temperature
    sampling, later = SamplingConfig(temperature=temperature), torch.zeros(len(questions), dtype=torch.bool)
    theta, teacher = np.full((2, len(questions), num_ids), -np.inf)
    for row, support in enumerate(whole):
        weights = temperature or 1.0
        theta[row, support.ids], teacher[row, support.ids] = (
            support.theta[:-1] * weights,
            support.teacher[:-1] * weights,
        )
    exact = mix(torch.from_numpy(theta), torch.from_numpy(teacher), later, num_ids, mixture, sampling)
    ids, theta_part, teacher_part, likeliest = stack(parts, [temperature] * len(parts))
    drawn = mix(theta_part, teacher_part, later, ids.shape[-1], mixture, sampling, likeliest)
    q = np.zeros((2, len(questions), num_ids))
    for row in range(len(questions)):
        # added: columns that fill a row up repeat an id and have no mass
        np.add.at(q[0, row], exact.ids[row].numpy(), exact.log_q[row].exp().numpy())
        np.add.at(q[1, row], ids[row, drawn.ids[row]].numpy(), drawn.log_q[row].exp().numpy())
    top_p = mixture.target_top_p if mixture.trust_region else None
    alphas, log_zs = drawn.alpha.tolist(), drawn.log_z.tolist()
    return Distances(
        q=0.5 * np.abs(q[0] - q[1]).sum(axis=-1),
        q_bound=np.array([q_error(u, a, z, top_p) for u, a, z in zip(parts, alphas, log_zs, strict=True)]),
        js=(exact.js - drawn.js).numpy(),
        js_bound=np.array([js_error(support) for support in parts]),
        alpha=(exact.alpha - drawn.alpha).abs().numpy(),
        num_requests=num_requests / len(questions),
    )
