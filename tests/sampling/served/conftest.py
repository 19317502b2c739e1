"""Each of the two servers, and a proxy before one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from sampling.served.config import HttpConfig
from tests.sampling.served.proxy import Proxy
from tests.sampling.served.servers import Server

FAST = HttpConfig(
    request_timeout_s=20.0, retries=4, retry_delay_s=0.02, breaker_failures=4, breaker_pause_s=0.2, max_in_flight=64
)


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
