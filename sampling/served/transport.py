"""The HTTP transport: sends one request once, over kept-alive connections with verified TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import nullcontext
from typing import Any
from urllib.parse import unquote

import httpx

from sampling.bounds import Bounds
from sampling.errors import ConfigurationError, ServerRefusedError
from sampling.served.config import HttpConfig
from sampling.served.refusals import MAX_ERROR_BYTES, TryError, refusal
from sampling.served.replicas import Replica

CONNECT_TIMEOUT_S = 10.0
# vLLM closes a connection that was idle for 5 s: ours must close earlier, or requests meet a closing connection.
KEEP_ALIVE_S = 4.0
SMALL_BYTES = 256 << 10  # replies up to it are read at once, however many: 64 MiB for max_in_flight 256
MAX_NESTED = 10_000  # lists and objects in a reply: an empty one takes 30 times its two characters; vLLM's have ten


class Transport:
    """The connections to the servers of the model called `name`."""

    def __init__(self, name: str, config: HttpConfig, api_key: str | None, bounds: Bounds) -> None:
        self.connections: list[httpx.AsyncClient] = []
        self._name = name
        self._config = config
        self._reply_bytes = bounds.reply_bytes
        self._large = asyncio.Lock()  # held for a reply beyond SMALL_BYTES, from its first byte until it is parsed
        self._key = {"Authorization": f"Bearer {api_key}"} if api_key is not None else {}
        self._tls = httpx.create_ssl_context()

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(connection.aclose() for connection in self.connections))

    async def send(
        self, replica: Replica, method: str, path: str, content: bytes | None, max_bytes: int | None = None
    ) -> Any:
        """Return the JSON of a replica's response. Raises TryError, or the error that `refusal` returns.

        `max_bytes`: of the response, where less than bounds.reply_bytes is expected.
        """
        replica.in_flight += 1
        connection = replica.idle_connections.pop() if replica.idle_connections else self._new_connection()
        try:
            headers = {"Content-Type": "application/json"} if content is not None else None
            async with asyncio.timeout(self._config.request_timeout_s):  # to the last byte
                async with connection.stream(method, replica.url + path, content=content, headers=headers) as response:
                    most = self._most(response, max_bytes)
                    async with self._large if most > SMALL_BYTES else nullcontext():
                        body = await self._read(response, most)
                        if response.status_code != 200:
                            raise refusal(self._name, replica.url, response, body, has_key=bool(self._key))
                        return _parsed(body)
        except TimeoutError as error:
            raise TryError(f"no answer within {self._config.request_timeout_s:g} s") from error
        except httpx.RequestError as error:
            if _is_untrusted(error):
                raise ServerRefusedError(
                    f"{self._name}'s server {replica.url} has a certificate that does not hold: {error}; "
                    "set SSL_CERT_FILE to the authority that signed it"
                ) from error
            raise TryError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
        except (ValueError, RecursionError) as error:
            raise TryError(f"a reply that is not JSON: {error}") from error
        finally:
            replica.in_flight -= 1
            replica.idle_connections.append(connection)

    def _most(self, response: httpx.Response, max_bytes: int | None) -> int:
        """Return the most bytes that are read of a response. Raises TryError where it announces more."""
        if response.status_code != 200:
            return MAX_ERROR_BYTES
        most = self._reply_bytes if max_bytes is None else min(max_bytes, self._reply_bytes)
        if "transfer-encoding" in response.headers or "content-length" not in response.headers:
            return most
        announced = int(response.headers["content-length"])  # h11 takes digits alone, and reads no more than that
        if announced > most:
            raise self._too_large(most)
        return announced

    async def _read(self, response: httpx.Response, most: int) -> bytearray:
        """Return a response's body, of an error its beginning.

        Raises TryError where it is compressed, which hides its size, or too large.
        """
        body = bytearray()
        if (encoding := response.headers.get("content-encoding", "identity").strip().lower()) != "identity":
            if response.status_code != 200:
                return body  # the status says enough
            raise TryError(f"a reply in {encoding[:40]!r}, which was not asked for")
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > most:
                if response.status_code != 200:
                    break
                raise self._too_large(most)
        return body

    def _too_large(self, most: int) -> TryError:
        if most == self._reply_bytes:
            return TryError(f"a reply of more than bounds.reply_bytes ({most})")
        return TryError(f"a reply of more than {most} bytes, the most for the logprobs that were asked for")

    def _new_connection(self) -> httpx.AsyncClient:
        """Return a client with one connection, for one request at a time.

        A client with all connections searches them at every request: with 32 in flight that took 1.9 ms of CPU a
        request, this takes 0.6.
        """
        connection = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity", **self._key},
            verify=self._tls,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE_S),
            # the whole try has its own limit; a shorter one for connecting shows an unreachable host sooner
            timeout=httpx.Timeout(None, connect=min(CONNECT_TIMEOUT_S, self._config.request_timeout_s)),
        )
        self.connections.append(connection)
        return connection


def _parsed(body: bytearray) -> Any:
    if body.count(b"[") + body.count(b"{") > MAX_NESTED:
        raise TryError(f"a reply of more than {MAX_NESTED} lists and objects")
    return json.loads(body)


def _is_untrusted(error: BaseException | None) -> bool:
    """Return whether `error` was caused by a certificate that cannot be verified, which no retry repairs."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def root_of(name: str, url: str) -> str:
    """Return a server's URL without /v1. Raises ConfigurationError, whose message never holds a password."""
    if set("@?#") & set(unquote(unquote(url))):
        raise ConfigurationError(
            f"the URL of {name}'s server holds a user, a password, a query or a fragment, which logs would show; give"
            " http(s)://host:port, and a key by the environment"
        )
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"the URL of {name}'s server is none: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError(f"the URL of {name}'s server is {url!r}; give http(s)://host:port")
    return str(parsed).rstrip("/").removesuffix("/v1")
