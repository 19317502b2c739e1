"""Fixtures that several folders share."""

from __future__ import annotations

import flows.orchestration.environment  # noqa: F401  isort: skip  (before torch, vLLM, Prefect)

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from tests.sampling.served.servers import Server

os.environ.setdefault("HF_HUB_OFFLINE", "1")
PRODUCTION = "tests/flows/production/"

# A shared machine is slow at times: an example has no deadline. CI draws the same examples each time.
hypothesis.settings.register_profile("dev", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=400, deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "dev")

# A shell's background jobs are born deaf to Ctrl-C, and so would be the commands that tests start (.ci/run).
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class SharedFixtures(LoadFileScheduling):
    """Sends a file's tests to one of xdist's workers, for they share fixtures; production's share their services.

    Not `xdist_group`: xdist 3.8 writes it into `Item._nodeid`, which pytest 9.2 does not read any more.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return PRODUCTION if file.startswith(PRODUCTION) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharedFixtures:
    return SharedFixtures(config, log)


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a random teacher with a theta that resembles it."""
    from tests.tiny import make_pair

    return make_pair(tmp_path_factory.mktemp("tiny"), noise=0.5)


@pytest.fixture(scope="session")
def servers(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """The teacher's real vLLM server with theta's, started side by side, for all tests: it takes 20 s and more."""
    from tests.sampling.served.servers import start

    logs = tmp_path_factory.mktemp("servers")
    started = [
        start(folder, name, logs / f"{name}.log") for name, folder in zip(("teacher", "theta"), tiny_pair, strict=True)
    ]
    try:
        for server in started:
            server.wait()
        yield started[0], started[1]
    finally:
        for server in started:
            server.kill()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The address of one Prefect server for all tests, with a database of its own; its start takes 10 s."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        address = PREFECT_API_URL.value()
        assert address is not None
        yield address
