"""DualSampler on two fake servers: tokens, error bounds, named ids, faults, refusals."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import pytest_asyncio

from sampling import DualOutput, DualPrompt, DualSampler, FailedRow, MixtureConfig, SamplingConfig
from sampling.errors import ConfigurationError, EngineError, ServerError
from sampling.served.config import HttpConfig
from sampling.served.pair import LogprobRequest
from tests.sampling.served.conftest import FAKE, FAST
from tests.sampling.served.distances import distances
from tests.sampling.served.fake import FakeServer
from tests.sampling.served.proxy import Fault, Proxy, body, reset, slow, status
from tests.sampling.served.servers import free_port
from tests.tiny import byte_tokenizer, make_model

THETA = FakeServer("theta", num_ids=272, seed=1)
NUM_IDS = 257
ALL_IDS = FAST.model_copy(update={"top_k": 300})
GREEDY = SamplingConfig(max_tokens=6, temperature=0)
FIXED = MixtureConfig.preset("exploratory", alpha_method="fixed", alpha=0.4)

T = TypeVar("T")


def prompts(num: int = 24) -> list[DualPrompt]:
    """Prompts of different lengths for the teacher and theta."""
    return [DualPrompt(teacher="t" * (i + 1), theta=f"theta {i}", id=f"row-{i}") for i in range(num)]


class Pair:
    """Proxies of the two fake servers, and the model folders that they claim to serve."""

    def __init__(self, teacher: Proxy, theta: Proxy, folders: tuple[Path, Path]) -> None:
        self.teacher, self.theta, self._folders = teacher, theta, folders

    def sampler(self, config: HttpConfig = ALL_IDS) -> DualSampler:
        teacher, theta = map(str, self._folders)
        return DualSampler(teacher, theta, teacher_url=self.teacher.url, theta_url=self.theta.url, http=config)

    async def use(self, work: Callable[[DualSampler], T], config: HttpConfig = ALL_IDS) -> T:
        """Call `work` in a thread: the proxies run on this one's event loop."""

        def run() -> T:
            with self.sampler(config) as sampler:
                return work(sampler)

        return await asyncio.to_thread(run)


@pytest_asyncio.fixture
async def pair(tiny_pair: tuple[Path, Path]) -> AsyncIterator[Pair]:
    async with Proxy(FAKE) as teacher, Proxy(THETA) as theta:
        yield Pair(teacher, theta, tiny_pair)


async def test_greedy_tokens_are_the_argmax_of_q(pair: Pair) -> None:
    outs = await pair.use(lambda sampler: sampler.generate(prompts(), GREEDY, mixture=FIXED, progress=False))
    tokenizer = byte_tokenizer()
    for row, out in zip(prompts(), outs, strict=True):
        assert out.token_ids
        sides = [tokenizer.encode(str(text)) for text in (row.theta, row.teacher)]
        for token_id in out.token_ids:
            theta, teacher = THETA.logprobs(sides[0])[:NUM_IDS], FAKE.logprobs(sides[1])[:NUM_IDS]
            assert token_id == np.argmax(0.6 * theta + 0.4 * teacher)
            sides = [[*side, token_id] for side in sides]
        assert (out.diagnostics.q_error == 0).all()
        assert (out.diagnostics.js_error == 0).all()


async def test_q_lies_within_its_bound_and_nearer_with_more_ids(pair: Pair) -> None:
    """At a fixed alpha, which the bound is for. Theta's padding columns have mass here, and only loosen the bound."""
    requests = [LogprobRequest(i, (i, 1), (2, i), 1.0, None) for i in range(24)]
    means = []
    for top_k in (5, 20, 100):
        http = FAST.model_copy(update={"top_k": top_k, "max_tail_mass": 1.0})
        found = await distances((pair.theta.url, pair.teacher.url), NUM_IDS, requests, http, FIXED)
        assert (found.q <= found.q_bound + 1e-5).all()
        assert (found.alpha == 0).all()
        means.append(found.q.mean())
    assert means[0] > means[1] > means[2] > 0


async def test_more_ids_are_requested_where_the_tail_is_heavy(pair: Pair) -> None:
    outs = await pair.use(
        lambda sampler: sampler.generate(prompts(8), SamplingConfig(max_tokens=2), progress=False),
        FAST.model_copy(update={"top_k": 5, "max_tail_mass": 1e-3}),
    )
    assert all((out.diagnostics.js_error < 2e-3).all() for out in outs)


@pytest.mark.parametrize("name_ids", [True, False])
async def test_ids_are_named_where_configured_and_counted(name_ids: bool, pair: Pair) -> None:
    def work(sampler: DualSampler) -> tuple[int, int]:
        outs = sampler.generate(prompts(8), SamplingConfig(max_tokens=2), progress=False)
        assert sampler.stats.num_tokens == sum(len(out.token_ids) for out in outs)
        return sampler.stats.num_named, sampler.stats.num_tokens

    http = FAST.model_copy(update={"top_k": 5, "max_tail_mass": 1.0, "name_ids": name_ids})
    num_named, num_tokens = await pair.use(work, http)
    assert (0 < num_named <= num_tokens) is name_ids


async def test_every_row_ends_once_and_right_whatever_fails(pair: Pair) -> None:
    """32 rows in flight; one reply in five is faulty, and theta's server is down for a moment."""
    rows, chance = prompts(32), random.Random(0)
    wanted = await pair.use(lambda sampler: sampler.generate(rows, GREEDY, progress=False))
    faults = itertools.cycle([
        reset(-1), reset(60), slow(0.3), status(500), status(429, retry_after="0.1"),
        body(lambda raw: raw[: len(raw) // 2]), body(lambda raw: b"no JSON"),
    ])  # fmt: skip

    def fault() -> Fault:
        return next(faults) if chance.random() < 0.2 else lambda reply: reply

    def run(sampler: DualSampler) -> list[DualOutput | FailedRow]:
        for proxy in (pair.teacher, pair.theta):
            proxy.faults.extend(fault() for _ in range(200))
        return list(sampler.run(rows, GREEDY))

    before = pair.theta.posts()
    work = asyncio.create_task(pair.use(run, ALL_IDS.model_copy(update={"retries": 12})))
    while pair.theta.posts() < before + 60 and not work.done():
        await asyncio.sleep(0.01)
    await pair.theta.stop()
    await asyncio.sleep(0.3)
    await pair.theta.start()
    results = await work
    assert len(results) == len(rows)
    found = {out.id: out.token_ids for out in results if isinstance(out, DualOutput)}
    assert found == {out.id: out.token_ids for out in wanted}


async def test_a_stream_draws_the_tokens_of_a_row(pair: Pair) -> None:
    parameters, (row,) = SamplingConfig(max_tokens=6, seed=3), prompts(1)

    async def drain(sampler: DualSampler) -> list[int]:
        return [token.token_id async for token in sampler.stream(row, parameters)]

    (out,) = await pair.use(lambda sampler: sampler.generate([row], parameters, progress=False))
    assert tuple(await pair.use(lambda sampler: asyncio.run(drain(sampler)))) == out.token_ids


async def test_concurrent_streams_all_raise_when_a_server_is_lost(pair: Pair) -> None:
    async def drain(sampler: DualSampler, row: DualPrompt) -> None:
        async for _ in sampler.stream(row, SamplingConfig(max_tokens=200, temperature=0)):
            if pair.theta.posts() > 20:
                pair.theta.always = status(500)

    async def drain_all(sampler: DualSampler) -> list[BaseException | None]:
        async with asyncio.timeout(60):
            return await asyncio.gather(*(drain(sampler, row) for row in prompts(3)), return_exceptions=True)

    http = ALL_IDS.model_copy(update={"retries": 0})
    ends = await pair.use(lambda sampler: asyncio.run(drain_all(sampler)), http)
    assert [type(end) for end in ends] == [ServerError] * 3
    assert "HTTP 500" in str(ends[0])


async def test_a_missing_server_is_an_engine_error(pair: Pair) -> None:
    """As a dead engine is, so that a shard's retry starts with a new engine."""
    pair.theta.port = free_port()
    with pytest.raises(EngineError, match=pair.theta.url):
        await asyncio.to_thread(pair.sampler)


async def test_a_mistaken_pair_is_refused_before_the_first_token(
    pair: Pair, tiny_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    (teacher, theta), url = tiny_pair, pair.teacher.url
    with pytest.raises(ConfigurationError, match="theta has no URL, the teacher a URL; give both a URL"):
        DualSampler(str(teacher), str(theta), teacher_url=url)
    with pytest.raises(ConfigurationError, match="no theta: give a folder, a Hub id, or theta_url"):
        DualSampler(str(teacher))
    other = str(make_model(tmp_path / "teacher", seed=5, tokenizer=byte_tokenizer(("hello",))))
    with pytest.raises(ConfigurationError, match="has another tokenizer than"):
        await asyncio.to_thread(DualSampler, other, other, teacher_url=url, theta_url=url, http=FAST)


async def test_swapped_urls_are_refused(pair: Pair) -> None:
    """Both models have one tokenizer: only their names distinguish them."""
    pair.teacher, pair.theta = pair.theta, pair.teacher
    message = r"theta's server .* serves teacher, not .*/theta; .*models\.theta\.served_name"
    with pytest.raises(ConfigurationError, match=message):
        await asyncio.to_thread(pair.sampler)
