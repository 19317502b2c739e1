"""The mapping from HTTP responses other than 200 to errors."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping

import httpx

from sampling.errors import DualSamplingError, NonFiniteLogitsError, PromptTooLongError, ServerRefusedError
from sampling.served.config import key_variable

MAX_RETRY_AFTER_S = 60.0
MAX_MESSAGE_CHARS = 300
MAX_ERROR_BYTES = 100_000  # of a reply that is no 200
TOO_LONG = ("maximum context length", "maximum model length")  # vLLM's messages since 0.6
NOT_FINITE = "not JSON compliant"  # in vLLM 0.32's status 400 where a logprob is NaN


class TryError(Exception):
    """A failed try of a request that may be repeated.

    `rest_s`: seconds that the server asks clients to wait. `is_failure`: whether it counts against the replica.
    """

    def __init__(self, reason: str, rest_s: float = 0.0, is_failure: bool = True) -> None:
        super().__init__(reason)
        self.rest_s = rest_s
        self.is_failure = is_failure


def refusal(
    name: str, url: str, response: httpx.Response, body: bytearray, has_key: bool
) -> DualSamplingError | TryError:
    """Return the error of a response that is not a 200, from the replica at `url` of the model `name`."""
    status = response.status_code
    message = message_of(response, body)
    if status == 429:
        return TryError(f"HTTP 429: {message}", retry_after_s(response.headers), is_failure=False)
    if status == 408 or (status >= 500 and status != 501):  # 501: a server that cannot complete text at all
        return TryError(f"HTTP {status}: {message}", retry_after_s(response.headers))
    if status in (401, 403):
        what = "refuses the API key it was given" if has_key else "wants an API key"
        return ServerRefusedError(
            f"{name}'s server {url} {what} (HTTP {status}); set {key_variable(name)} to one it takes"
        )
    if any(text in message for text in TOO_LONG):
        return PromptTooLongError(f"{name}'s server {url}: {message}")
    if NOT_FINITE in message:
        return NonFiniteLogitsError(f"{name}'s server {url} got logprobs that are no numbers: {message}")
    return ServerRefusedError(f"{name}'s server {url} answers HTTP {status}: {message}")


def message_of(response: httpx.Response, body: bytearray) -> str:
    """Return the server's message, as `one_line`, without the key."""
    body = body[:MAX_ERROR_BYTES]
    message = body.decode(errors="replace")
    try:
        error = json.loads(body)["error"]
        message = error if isinstance(error, str) else str(error["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # a proxy's HTML page, or another server's JSON: kept as it is
    if key := response.request.headers.get("authorization", "").removeprefix("Bearer "):
        message = message.replace(key, "<the API key>")  # some gateways quote it
    return one_line(message)


def one_line(text: str) -> str:
    """Return a server's text on one line, without control characters, cut to MAX_MESSAGE_CHARS."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[:10_000]).split())
    return line if len(line) <= MAX_MESSAGE_CHARS else line[:MAX_MESSAGE_CHARS] + " …"


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds of `Retry-After` (a number or an HTTP date): at most MAX_RETRY_AFTER_S, 0 without one."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value[:100]).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return min(seconds, MAX_RETRY_AFTER_S) if seconds > 0 else 0.0
