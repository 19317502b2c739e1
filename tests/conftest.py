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

if TYPE_CHECKING:
    from tests.sampling.served.servers import Server

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shared machine is slow at times: an example has no deadline. CI draws the same examples each time.
hypothesis.settings.register_profile("dev", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=400, deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "dev")

# A shell's background jobs are born deaf to Ctrl-C, and so would be the commands that tests start (.ci/run).
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests on one of xdist's workers, for they share fixtures; likewise all that share the services."""
    for item in items:
        shared = "services" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("services" if shared else item.path.as_posix()))


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
