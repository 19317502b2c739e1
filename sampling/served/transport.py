"""One try of one request."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import httpx

from sampling.errors import ConfigurationError, ServerRefusedError
from sampling.served.config import HttpConfig
from sampling.served.refusals import TryError, refusal
from sampling.served.replicas import Replica

CONNECT_TIMEOUT_S = 10.0
# vLLM closes a connection that was idle for 5 s: let go of ours before, or requests meet it closing.
KEEP_ALIVE_S = 4.0


class Transport:
    """Kept-alive connections to the servers of the model called `name`, each with TLS verified."""

    def __init__(self, name: str, config: HttpConfig, api_key: str | None) -> None:
        self.connections: list[httpx.AsyncClient] = []
        self._name = name
        self._config = config
        self._has_key = api_key is not None
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key is not None else {}
        self._trusted = httpx.create_ssl_context()

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(connection.aclose() for connection in self.connections))

    async def send(self, replica: Replica, method: str, path: str, content: bytes | None) -> Any:
        """The JSON that a replica answers to one request. Raises TryError, or what the refusal asks for."""
        replica.in_flight += 1
        connection = replica.idle_lanes.pop() if replica.idle_lanes else self._new_lane()
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                response = await connection.request(
                    method,
                    replica.url + path,
                    content=content,
                    headers={"Content-Type": "application/json"} if content is not None else None,
                )
            if response.status_code != 200:
                raise refusal(self._name, replica.url, response, self._has_key)
            return response.json()
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
            replica.idle_lanes.append(connection)

    def _new_lane(self) -> httpx.AsyncClient:
        """A client with one connection, for one request at a time.

        One client for all looks through all its connections at every request: with 32 in flight that took 1.9 ms of
        CPU a request, this takes 0.6.
        """
        connection = httpx.AsyncClient(
            headers=self._headers,
            verify=self._trusted,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE_S),
            # the whole try has its own limit; a name or host that is gone shows sooner
            timeout=httpx.Timeout(None, connect=min(CONNECT_TIMEOUT_S, self._config.request_timeout_s)),
        )
        self.connections.append(connection)
        return connection


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether a certificate that cannot be verified is behind `error`: trying again does not help."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def root_of(name: str, url: str) -> str:
    """The address of a server without /v1. Raises ConfigurationError, which never quotes a password."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"the URL of {name}'s server is none: {error}") from error
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigurationError(
            f"the URL of {name}'s server on {parsed.host} holds a user, a password, a query or a fragment, which "
            "logs would show; give http(s)://host:port, and a key by the environment"
        )
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError(f"the URL of {name}'s server is {url!r}; give http(s)://host:port")
    return str(parsed).rstrip("/").removesuffix("/v1")
