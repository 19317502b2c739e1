"""A proxy on the loopback interface that injects faults into a server's replies."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx


@dataclass
class Reply:
    """A response; `cut`: reset the connection after so many bytes of the body, -1 before the first byte."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


Fault = Callable[[Reply], Reply | Awaitable[Reply]]  # the server's reply → the client's
Upstream = Callable[[str, str, bytes], Reply]  # a server in this process: method, path, body → its reply


def status(code: int, body: bytes = b'{"error":{"message":"made up"}}', **headers: str) -> Fault:
    """Replace the reply, with headers such as retry_after='1'."""
    return lambda reply: Reply(code, body, {name.replace("_", "-"): value for name, value in headers.items()})


def reset(cut: int) -> Fault:
    """Reset the connection at byte `cut` of the body (-1: before the reply)."""
    return lambda reply: Reply(reply.status, reply.body, reply.headers, cut)


def body(change: Callable[[bytes], bytes]) -> Fault:
    """Change the body."""
    return lambda reply: Reply(reply.status, change(reply.body), reply.headers)


def slow(seconds: float) -> Fault:
    """Delay the reply."""

    async def wait(reply: Reply) -> Reply:
        await asyncio.sleep(seconds)
        return reply

    return wait


class Proxy:
    """A proxy of `upstream`, a URL or a server in this process.

    Each of `faults` changes one reply to a POST, `always` every later one, `get_faults` those to GETs of a path.
    `stop` resets connections, then refuses them, as a killed server does; `start` listens at the same port again.
    """

    def __init__(self, upstream: str | Upstream, tls: ssl.SSLContext | None = None) -> None:
        self.upstream = upstream
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.get_faults: dict[str, Fault] = {}
        self.requests: list[dict[str, Any]] = []  # method, path, headers, body of each
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def posts(self) -> int:
        return sum(request["method"] == "POST" for request in self.requests)

    async def __aenter__(self) -> Self:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(timeout=60, limits=limits)
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        await self._http.aclose()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and reset open ones."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                _reset(writer)
            self._server = None
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, httpx.TransportError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request of a kept-alive connection; return False to end the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append({"method": method, "path": path, "headers": headers, "body": content})
        if isinstance(self.upstream, str):
            passed = {name: value for name, value in headers.items() if name in ("content-type", "authorization")}
            response = await self._http.request(method, self.upstream + path, content=content, headers=passed)
            reply = Reply(response.status_code, response.content)
        else:
            reply = self.upstream(method, path, content)
        fault = self.get_faults.get(path)
        if method == "POST":
            fault = self.faults.popleft() if self.faults else self.always
        if fault is not None:
            changed = fault(reply)
            reply = changed if isinstance(changed, Reply) else await changed
        if reply.cut == -1:
            _reset(writer)
            return False
        fields = {"content-length": str(len(reply.body)), "content-type": "application/json", **reply.headers}
        lines = [f"HTTP/1.1 {reply.status} X", *(f"{name}: {value}" for name, value in fields.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode() + reply.body[: reply.cut])
        await writer.drain()
        if reply.cut is not None:
            await asyncio.sleep(0.02)  # let the written bytes arrive before the reset
            _reset(writer)
        return reply.cut is None


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
