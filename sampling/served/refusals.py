"""What an HTTP answer other than 200 means."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping

import httpx

from sampling.errors import DualSamplingError, NonFiniteLogitsError, PromptTooLongError, ServerRefusedError
from sampling.served.config import key_variable

MAX_RETRY_AFTER_S = 60.0
MAX_MESSAGE_CHARS = 300
TOO_LONG = ("maximum context length", "maximum model length")  # vLLM's words since 0.6
NOT_FINITE = "not JSON compliant"  # vLLM 0.32 answers so, with status 400, where a logprob is NaN


class TryError(Exception):
    """A try that failed and may be repeated.

    `rest_s`: how long the server asks to be left alone. `is_failure`: whether it counts against the replica.
    """

    def __init__(self, reason: str, rest_s: float = 0.0, is_failure: bool = True) -> None:
        super().__init__(reason)
        self.rest_s = rest_s
        self.is_failure = is_failure


def refusal(name: str, url: str, response: httpx.Response, has_key: bool) -> DualSamplingError | TryError:
    """The error that `response`, which is not a 200, asks for; `name` is the model's, `url` the replica's."""
    status = response.status_code
    said = message_of(response)
    if status == 429:
        return TryError(f"HTTP 429: {said}", retry_after_s(response.headers), is_failure=False)
    if status == 408 or (status >= 500 and status != 501):  # 501: a server that cannot complete text at all
        return TryError(f"HTTP {status}: {said}", retry_after_s(response.headers))
    if status in (401, 403):
        what = "refuses the API key it was given" if has_key else "wants an API key"
        return ServerRefusedError(
            f"{name}'s server {url} {what} (HTTP {status}); set {key_variable(name)} to one it takes"
        )
    if any(words in said for words in TOO_LONG):
        return PromptTooLongError(f"{name}'s server {url}: {said}")
    if NOT_FINITE in said:
        return NonFiniteLogitsError(f"{name}'s server {url} got logprobs that are no numbers: {said}")
    return ServerRefusedError(f"{name}'s server {url} answers HTTP {status}: {said}")


def message_of(response: httpx.Response) -> str:
    """The server's own words on one line, without control characters, cut to MAX_MESSAGE_CHARS."""
    said = response.text
    try:
        error = response.json()["error"]
        said = error if isinstance(error, str) else str(error["message"])
    except (ValueError, KeyError, TypeError):
        pass  # a proxy's page, or another server's shape: shown as it is
    if key := response.request.headers.get("authorization", "").removeprefix("Bearer "):
        said = said.replace(key, "<the API key>")  # some gateways quote it
    line = " ".join("".join(char if char.isprintable() else " " for char in said[:10_000]).split())
    return line if len(line) <= MAX_MESSAGE_CHARS else line[:MAX_MESSAGE_CHARS] + " …"


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that `Retry-After` (seconds, or an HTTP date) asks for: at most MAX_RETRY_AFTER_S, 0 without one."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(seconds, MAX_RETRY_AFTER_S) if seconds > 0 else 0.0
