"""Two real servers coupled token by token, held against the same models in lockstep."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sampling import DualOutput, DualPrompt, DualSampler, FailedRow, MixtureConfig, SamplingConfig
from sampling.errors import ConfigurationError, EngineError, ServerError
from sampling.served.config import HttpConfig
from sampling.served.pair import LogprobRequest
from tests.sampling.served.conftest import FAST
from tests.sampling.served.distances import distances
from tests.sampling.served.proxy import Fault, Proxy, body, reset, slow, status
from tests.sampling.served.servers import Server, free_port
from tests.sampling.test_sampler import CONFIGS, MAX_TOKENS, prompts
from tests.tiny import byte_tokenizer, make_model

ALL_IDS = FAST.model_copy(update={"top_k": 300})


def coupled(servers: tuple[Server, Server], models: tuple[Path, Path], config: HttpConfig) -> DualSampler:
    (teacher, theta), (teacher_server, theta_server) = models, servers
    ours, theirs = theta_server.url, teacher_server.url
    return DualSampler(str(teacher), str(theta), backend="http", teacher_url=theirs, theta_url=ours, http=config)


@pytest.fixture(scope="module")
def exact(servers: tuple[Server, Server], tiny_pair: tuple[Path, Path]) -> Iterator[DualSampler]:
    """Asked for every id."""
    with coupled(servers, tiny_pair, ALL_IDS) as sampler:
        yield sampler


@pytest.mark.parametrize("name", ["method-kl_symmetry", "all-off", "trust-only", "stability-only", "teacher"])
def test_greedy_tokens_are_those_of_lockstep(name: str, exact: DualSampler, sampler: DualSampler) -> None:
    config = MixtureConfig.preset("balanced", **CONFIGS[name])
    greedy = SamplingConfig(max_tokens=MAX_TOKENS, temperature=0)
    there = exact.generate(prompts(), greedy, mixture=config, progress=False)
    here = sampler.generate(prompts(), greedy, mixture=config, progress=False)
    for ours, theirs in zip(there, here, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert (ours.text, ours.finish_reason) == (theirs.text, theirs.finish_reason)
        for figure in ("alpha", "js", "overlap_mass", "entropy", "logprob_q", "logprob_theta", "logprob_teacher"):
            np.testing.assert_allclose(
                getattr(ours.diagnostics, figure), getattr(theirs.diagnostics, figure), atol=2e-3, err_msg=figure
            )
        assert (ours.diagnostics.q_error == 0).all()
        assert (ours.diagnostics.js_error == 0).all()


async def test_q_is_as_near_the_exact_one_as_is_said_and_nearer_with_more_ids(
    exact: DualSampler, servers: tuple[Server, Server]
) -> None:
    """At a fixed alpha, which the bound is for. Theta's padding has mass here, and only loosens the bound."""
    teacher, theta = servers
    questions = [
        LogprobRequest(
            i,
            tuple(exact.theta_tokenizer.encode(row.theta)),
            tuple(exact.teacher_tokenizer.encode(row.teacher)),
            1.0,
            None,
        )
        for i, row in enumerate(prompts()) if isinstance(row.theta, str) and isinstance(row.teacher, str)
    ]  # fmt: skip
    assert len(questions) >= 20
    config = MixtureConfig.preset("exploratory", alpha_method="fixed", alpha=0.4, force_first_token=False)
    means = []
    for top_k in (5, 20, 100):
        http = FAST.model_copy(update={"top_k": top_k, "max_tail_mass": 1.0})
        found = await distances((theta.url, teacher.url), 257, questions, http, config)
        assert (found.q <= found.q_bound + 1e-5).all()
        assert (found.alpha == 0).all()
        means.append(found.q.mean())
    assert means[0] > means[1] > means[2] > 0


def spoilt() -> Fault:
    """One of the faults that a server or the way to it may have."""
    faults = [
        reset(-1), reset(60), slow(0.3), status(500), status(429, retry_after="0.1"),
        body(lambda raw: raw[: len(raw) // 2]), body(lambda raw: b"no JSON"),
    ]  # fmt: skip
    return faults[next(_places) % len(faults)]


_places = itertools.count()


async def test_every_row_ends_once_and_right_whatever_goes_wrong_on_the_way(
    exact: DualSampler, servers: tuple[Server, Server], tiny_pair: tuple[Path, Path]
) -> None:
    """32 rows in flight; one reply in five is spoilt, and theta's server is gone for a moment."""
    rows = [DualPrompt(teacher=row.teacher, theta=row.theta, id=f"{row.id}-{k}") for row in prompts() for k in (0, 1)]
    rows, parameters = rows[:32], SamplingConfig(max_tokens=6, temperature=0)
    wanted = {out.id: out.token_ids for out in exact.generate(rows, parameters, progress=False)}
    chance = random.Random(0)
    config = ALL_IDS.model_copy(update={"retries": 12})
    async with Proxy(servers[0].url) as teacher, Proxy(servers[1].url) as theta:

        def run() -> list[DualOutput | FailedRow]:
            with DualSampler(
                str(tiny_pair[0]), str(tiny_pair[1]), teacher_url=teacher.url, theta_url=theta.url, http=config
            ) as sampler:
                for proxy in (teacher, theta):
                    proxy.faults.extend(
                        spoilt() if chance.random() < 0.2 else (lambda reply: reply) for _ in range(200)
                    )
                return list(sampler.run(rows, parameters))

        work = asyncio.create_task(asyncio.to_thread(run))
        while theta.posts() < 60 and not work.done():
            await asyncio.sleep(0.01)
        await theta.stop()
        await asyncio.sleep(0.5)
        await theta.start()
        results = await work
    assert len(results) == len(rows)
    assert {out.id: out.token_ids for out in results if isinstance(out, DualOutput)} == wanted


@pytest.mark.parametrize("top_k", [5, 20, 100])
def test_what_is_left_out_is_bounded(
    top_k: int, exact: DualSampler, servers: tuple[Server, Server], tiny_pair: tuple[Path, Path]
) -> None:
    """Of the first tokens, whose context is the same whatever was drawn before: 24 rows, no id asked for again.

    Of theta's 272 columns 15 are padding, which random weights give 5 % of the mass: where not all ids are known it
    counts to the tail, so JS is that of distributions 5 % smaller. tests/sampling/served/test_support.py has the bounds
    where no column is padding.
    """
    config = MixtureConfig.preset("balanced", force_first_token=False, auto_fallback=False, overlap_top_k=5)
    one = SamplingConfig(max_tokens=1)
    all_ids = exact.generate(prompts(), one, mixture=config, progress=False)
    with coupled(servers, tiny_pair, FAST.model_copy(update={"top_k": top_k, "max_tail_mass": 1.0})) as few:
        outs = few.generate(prompts(), one, mixture=config, progress=False)
    for got, true in zip(outs, all_ids, strict=True):
        missing = true.diagnostics.js - got.diagnostics.js
        assert (missing > -0.05).all()
        assert (missing < got.diagnostics.js_error + 0.05).all()
        assert (got.diagnostics.q_error >= 0).all()
        assert (got.diagnostics.q_error <= 1).all()


def test_more_ids_are_asked_for_where_the_tail_is_heavy(
    servers: tuple[Server, Server], tiny_pair: tuple[Path, Path]
) -> None:
    with coupled(servers, tiny_pair, FAST.model_copy(update={"top_k": 5, "max_tail_mass": 1e-3})) as sampler:
        outs = sampler.generate(prompts(8), SamplingConfig(max_tokens=2), progress=False)
    assert all((out.diagnostics.js_error < 2e-3).all() for out in outs)


@pytest.mark.parametrize("name_ids", [True, False])
def test_ids_are_named_where_that_is_wanted_and_it_is_counted(
    name_ids: bool, servers: tuple[Server, Server], tiny_pair: tuple[Path, Path]
) -> None:
    http = FAST.model_copy(update={"top_k": 5, "max_tail_mass": 1.0, "name_ids": name_ids})
    with coupled(servers, tiny_pair, http) as sampler:
        outs = sampler.generate(prompts(8), SamplingConfig(max_tokens=2), progress=False)
        num_named, num_tokens = sampler.stats.num_named, sampler.stats.num_tokens
    assert num_tokens == sum(len(out.token_ids) for out in outs)
    assert (num_named > 0) is name_ids


async def test_streams_are_rows(exact: DualSampler) -> None:
    parameters = SamplingConfig(max_tokens=6, seed=3)
    (row,) = prompts(1)
    (out,) = exact.generate([row], parameters, progress=False)
    drawn = [token async for token in exact.stream(row, parameters)]
    assert tuple(token.token_id for token in drawn) == out.token_ids


def test_a_mistaken_pair_is_refused_before_the_first_token(
    servers: tuple[Server, Server], tiny_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    (teacher, theta), (server, _) = tiny_pair, servers
    with pytest.raises(ConfigurationError, match="theta has no URL, the teacher a URL; give both a URL"):
        DualSampler(str(teacher), str(theta), teacher_url=server.url)
    with pytest.raises(ConfigurationError, match="no theta: give a folder, a Hub id, or theta_url"):
        DualSampler(str(teacher))
    other = make_model(tmp_path / "teacher", seed=5, tokenizer=byte_tokenizer(("hello",)))
    with pytest.raises(ConfigurationError, match=r"tokenizer|vocabulary"):
        DualSampler(str(other), str(other), teacher_url=server.url, theta_url=server.url, http=FAST)


def test_swapped_addresses_are_refused(servers: tuple[Server, Server], tiny_pair: tuple[Path, Path]) -> None:
    """Both models have one tokenizer: only their names tell them apart."""
    (teacher, theta), (teacher_server, theta_server) = tiny_pair, servers
    said = r"theta's server .* serves teacher, not .*/theta; .*models\.theta\.served_name"
    with pytest.raises(ConfigurationError, match=said):
        DualSampler(str(teacher), str(theta), teacher_url=theta_server.url, theta_url=teacher_server.url, http=FAST)


async def test_streams_side_by_side_all_hear_of_a_lost_server(
    servers: tuple[Server, Server], tiny_pair: tuple[Path, Path]
) -> None:
    http = FAST.model_copy(update={"retries": 0})
    async with Proxy(servers[1].url) as theta:

        def couple() -> DualSampler:
            return DualSampler(
                str(tiny_pair[0]), str(tiny_pair[1]), teacher_url=servers[0].url, theta_url=theta.url, http=http
            )

        sampler = await asyncio.to_thread(couple)

        async def drain(row: DualPrompt) -> None:
            async for _ in sampler.stream(row, SamplingConfig(max_tokens=200, temperature=0)):
                if theta.posts() > 40:
                    theta.always = status(500)

        async with asyncio.timeout(60):
            ends = await asyncio.gather(*map(drain, prompts(3)), return_exceptions=True)
        assert [type(end) for end in ends] == [ServerError] * 3
        await asyncio.to_thread(sampler.close)


def test_a_lost_server_ends_the_attempt(tiny_pair: tuple[Path, Path], servers: tuple[Server, Server]) -> None:
    """As a dead engine does: an EngineError, which a shard's retry answers with a fresh one."""
    dead = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EngineError, match=dead):
        DualSampler(str(tiny_pair[0]), str(tiny_pair[1]), teacher_url=servers[0].url, theta_url=dead, http=FAST)
