"""Replies that would take the machine: compressed, long, nested, without end. They end at a bound, named."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time

import pytest

from sampling.bounds import Bounds
from sampling.errors import ServerError
from tests.sampling.served.conftest import FAKE, FAST, connected
from tests.sampling.served.proxy import Fault, Proxy, Reply, body, status

ROW = [1, 250, 3]
SMALL = Bounds(reply_bytes=100_000)
BOMBS: dict[str, tuple[Fault, str]] = {
    "gzip": (
        lambda reply: Reply(200, gzip.compress(b" " * 50_000_000 + reply.body), {"content-encoding": "gzip"}),
        "a reply in 'gzip', which was not asked for",
    ),
    "long": (body(lambda raw: b" " * 200_000 + raw), r"a reply of more than bounds\.reply_bytes \(100000\)"),
    "an error": (status(500, b"x" * 200_000), r"a reply of more than bounds\.reply_bytes \(100000\)"),
    "many lists": (body(lambda raw: b"[" + b"[]," * 20_000 + b"[]]"), "a reply of more than 10000 lists and objects"),
    "a gzipped error": (
        lambda reply: Reply(503, gzip.compress(b"busy"), {"content-encoding": "gzip"}),
        "HTTP 503: ",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_a_reply_beyond_its_bound_is_not_read(name: str, proxy: Proxy) -> None:
    bomb, message = BOMBS[name]
    config = FAST.model_copy(update={"retries": 1})
    async with connected(proxy.url, config=config, bounds=SMALL) as client:
        assert {request["headers"]["accept-encoding"] for request in proxy.requests} == {"identity"}
        proxy.faults.append(bomb)
        assert (await client.next_token(ROW, 5)).ids.tolist() == FAKE.top(ROW, 5)  # by the second try
        proxy.always = bomb
        with pytest.raises(ServerError, match=rf"teacher's servers .*{proxy.url}: {message}"):
            await client.next_token(ROW, 5)
    for path in ("/v1/models", "/version"):
        proxy.get_faults = {path: bomb}
        with pytest.raises(ServerError, match=rf"teacher's servers .*{proxy.url}: {message}"):
            async with connected(proxy.url, config=config, bounds=SMALL):
                pass


async def test_a_reply_that_drips_ends_at_the_timeout(proxy: Proxy) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    start = time.monotonic()
    with pytest.raises(ServerError, match=rf"{url}: no answer within 0\.3 s"):
        async with connected(url, config=FAST.model_copy(update={"retries": 1, "request_timeout_s": 0.3})):
            pass
    assert time.monotonic() - start < 5.0
    server.close()
