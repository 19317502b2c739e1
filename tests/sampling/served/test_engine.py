"""DualSampler on two real servers, compared with the same models in lockstep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sampling import DualSampler, MixtureConfig, SamplingConfig
from sampling.served.config import HttpConfig
from tests.sampling.served.conftest import FAST
from tests.sampling.served.servers import Server
from tests.sampling.test_sampler import CONFIGS, MAX_TOKENS, prompts

pytestmark = pytest.mark.slow


def http_sampler(servers: tuple[Server, Server], models: tuple[Path, Path], config: HttpConfig) -> DualSampler:
    (teacher, theta), (teacher_server, theta_server) = models, servers
    ours, theirs = theta_server.url, teacher_server.url
    return DualSampler(str(teacher), str(theta), backend="http", teacher_url=theirs, theta_url=ours, http=config)


@pytest.fixture(scope="module")
def exact(servers: tuple[Server, Server], tiny_pair: tuple[Path, Path]) -> Iterator[DualSampler]:
    """A sampler that requests all ids."""
    with http_sampler(servers, tiny_pair, FAST.model_copy(update={"top_k": 300})) as sampler:
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
        for column in ("alpha", "js", "overlap_mass", "entropy", "logprob_q", "logprob_theta", "logprob_teacher"):
            np.testing.assert_allclose(
                getattr(ours.diagnostics, column), getattr(theirs.diagnostics, column), atol=2e-3, err_msg=column
            )
        assert (ours.diagnostics.q_error == 0).all()
        assert (ours.diagnostics.js_error == 0).all()


@pytest.mark.parametrize("top_k", [5, 20, 100])
def test_the_error_of_few_ids_is_bounded(
    top_k: int, exact: DualSampler, servers: tuple[Server, Server], tiny_pair: tuple[Path, Path]
) -> None:
    """Of the first tokens, whose context does not depend on draws: 24 rows, no second request for more ids.

    Of theta's 272 columns 15 are padding, which random weights give 5 % of the mass: where not all ids are returned it
    counts to the tail, so JS is that of distributions 5 % smaller. tests/sampling/served/test_support.py has the bounds
    where no column is padding.
    """
    config = MixtureConfig.preset("balanced", force_first_token=False, auto_fallback=False, overlap_top_k=5)
    one = SamplingConfig(max_tokens=1)
    all_ids = exact.generate(prompts(), one, mixture=config, progress=False)
    with http_sampler(servers, tiny_pair, FAST.model_copy(update={"top_k": top_k, "max_tail_mass": 1.0})) as few:
        outs = few.generate(prompts(), one, mixture=config, progress=False)
    for got, true in zip(outs, all_ids, strict=True):
        missing = true.diagnostics.js - got.diagnostics.js
        assert (missing > -0.05).all()
        assert (missing < got.diagnostics.js_error + 0.05).all()
        assert (got.diagnostics.q_error >= 0).all()
        assert (got.diagnostics.q_error <= 1).all()
