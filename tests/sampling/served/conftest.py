"""Fixtures of the HTTP backend's tests: clients, a fake server's proxy, the two real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from sampling.served.client import ModelClient
from sampling.served.config import HttpConfig
from tests.sampling.served.fake import FakeServer
from tests.sampling.served.proxy import Proxy
from tests.sampling.served.servers import Server

FAST = HttpConfig(
    request_timeout_s=20.0, retries=4, retry_delay_s=0.02, breaker_failures=4, breaker_pause_s=0.2, max_in_flight=64
)
FAKE = FakeServer()


@asynccontextmanager
async def connected(
    *urls: str, name: str = "teacher", config: HttpConfig = FAST, **options: Any
) -> AsyncIterator[ModelClient]:
    """An open client of the servers at `urls`."""
    client = ModelClient(name, urls, config, **options)
    await client.open()
    try:
        yield client
    finally:
        await client.close()


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy of FAKE."""
    async with Proxy(FAKE) as opened:
        yield opened


@pytest.fixture(scope="session")
def teacher(servers: tuple[Server, Server]) -> Server:
    """The teacher's real server: 264 ids."""
    return servers[0]


@pytest.fixture(scope="session")
def theta(servers: tuple[Server, Server]) -> Server:
    """Theta's real server: 272 ids."""
    return servers[1]
