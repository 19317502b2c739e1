"""The distance of a q* computed from two servers' likeliest ids from the exact one."""

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
    """Distances, one per request: [N] float64."""

    q: np.ndarray  # total variation between the sampled q* and the exact one
    q_bound: np.ndarray  # the token's q_error
    js: np.ndarray  # the exact JS less the reported one, nats
    js_bound: np.ndarray
    alpha: np.ndarray  # absolute difference
    num_requests: float  # HTTP requests to both servers per LogprobRequest


@asynccontextmanager
async def opened(urls: tuple[str, str], config: HttpConfig, num_ids: int) -> AsyncIterator[ServedPair]:
    """An open pair of theta's and the teacher's server."""
    clients = [ModelClient(name, [url], config) for name, url in zip(("theta", "teacher"), urls, strict=True)]
    pair = ServedPair(clients[0], clients[1], config)
    pair.num_ids = num_ids
    async with AsyncExitStack() as stack_:
        stack_.push_async_callback(pair.close)
        await pair.open()
        yield pair


async def ask_all(pair: ServedPair, requests: Sequence[LogprobRequest]) -> list[MergedSupport]:
    """The merged support of each request."""
    return [response.support for response in await asyncio.gather(*map(pair.ask, requests))]


async def distances(
    urls: tuple[str, str], num_ids: int, requests: Sequence[LogprobRequest], config: HttpConfig, mixture: MixtureConfig
) -> Distances:
    """Send every request twice: for all ids, then with `config`."""
    async with opened(urls, config.model_copy(update={"top_k": 1 << 30}), num_ids) as pair:
        whole = await ask_all(pair, requests)
    async with opened(urls, config, num_ids) as pair:
        before = sum(client.num_requests for client in pair.clients)
        parts = await ask_all(pair, requests)
        num_requests = sum(client.num_requests for client in pair.clients) - before
    temperature = requests[0].temperature
    sampling, later = SamplingConfig(temperature=temperature), torch.zeros(len(requests), dtype=torch.bool)
    theta, teacher = np.full((2, len(requests), num_ids), -np.inf)
    for row, support in enumerate(whole):
        weights = temperature or 1.0
        theta[row, support.ids], teacher[row, support.ids] = (
            support.theta[:-1] * weights,
            support.teacher[:-1] * weights,
        )
    exact = mix(torch.from_numpy(theta), torch.from_numpy(teacher), later, num_ids, mixture, sampling)
    ids, theta_part, teacher_part, likeliest = stack(parts, [temperature] * len(parts))
    drawn = mix(theta_part, teacher_part, later, ids.shape[-1], mixture, sampling, likeliest)
    q = np.zeros((2, len(requests), num_ids))
    for row in range(len(requests)):
        # add.at: padding columns repeat an id and have no mass
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
        num_requests=num_requests / len(requests),
    )
