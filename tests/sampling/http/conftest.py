"""Two real servers that the HTTP backend's tests share: one takes 20 s and more to start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from sampling.http.config import HttpConfig
from tests.sampling.http.proxy import Proxy
from tests.sampling.http.servers import Server, start

FAST = HttpConfig(
    request_timeout_s=20.0, retries=4, retry_delay_s=0.02, breaker_failures=4, breaker_pause_s=0.2, max_in_flight=64
)


@pytest.fixture(scope="session")
def servers(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """The teacher's server with the theta's, started side by side."""
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
def teacher(servers: tuple[Server, Server]) -> Server:
    """The teacher's server: 264 ids."""
    return servers[0]


@pytest.fixture(scope="session")
def theta(servers: tuple[Server, Server]) -> Server:
    """The theta's server: 272 ids."""
    return servers[1]


@pytest_asyncio.fixture
async def proxy(teacher: Server) -> AsyncIterator[Proxy]:
    """A proxy before the teacher's server."""
    async with Proxy(teacher.url) as opened:
        yield opened
