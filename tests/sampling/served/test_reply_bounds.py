"""Replies that would take the machine: compressed, long, nested, without end. They end at a bound, named."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import threading
import time
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sampling.bounds import Bounds
from sampling.errors import ServerError
from sampling.served.refusals import MAX_MESSAGE_CHARS
from tests.sampling.served.conftest import FAKE, FAST, connected
from tests.sampling.served.proxy import Fault, Proxy, Reply, body, status

ROW = [1, 250, 3]
SMALL = Bounds(reply_bytes=100_000)


def chunked(reply: Reply) -> Reply:
    """Of a length that is told in the pieces, and nowhere else: the one before is a lie."""
    return Reply(200, (b"4000\r\n" + b" " * 0x4000 + b"\r\n") * 12, {"transfer-encoding": "chunked"})


BOMBS: dict[str, tuple[Fault, str]] = {
    "gzip": (
        lambda reply: Reply(200, gzip.compress(b" " * 50_000_000 + reply.body), {"content-encoding": "gzip"}),
        "a reply in 'gzip', which was not asked for",
    ),
    "long": (
        body(lambda raw: b" " * 200_000 + raw),
        r"a reply of more than (bounds\.reply_bytes \(100000\)|66536 bytes)",
    ),
    "an error": (status(500, b"x" * 200_000), f"HTTP 500: {'x' * MAX_MESSAGE_CHARS} …"),
    "many lists": (body(lambda raw: b"[" + b"[]," * 20_000 + b"[]]"), "a reply of more than 10000 lists and objects"),
    "chunked": (chunked, r"a reply of more than (bounds\.reply_bytes \(100000\)|66536 bytes)"),
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


class Large(BaseHTTPRequestHandler):
    """FAKE, whose token ids come with 6 MB; in threads, for asyncio's server would keep copies of its own."""

    protocol_version = "HTTP/1.1"
    padding = b'{"tokens": [1], "x": "' + b"x" * 6_000_000 + b'"}'

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        reply = self.padding if self.path == "/tokenize" else FAKE(self.command, self.path, content).body
        self.send_response(200)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_POST = do_GET

    def log_message(self, *args: object) -> None: ...


async def test_large_replies_are_read_one_at_a_time() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Large) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        async with connected(f"http://127.0.0.1:{server.server_port}") as client:
            tracemalloc.start()
            try:
                assert await asyncio.gather(*(client.tokenize("x") for _ in range(12))) == [[1]] * 12
                assert tracemalloc.get_traced_memory()[1] < 36_000_000  # half of all; one is decoded and parsed
            finally:
                tracemalloc.stop()
        server.shutdown()


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
