"""What went wrong on the way to the Hub."""

from __future__ import annotations

from json import JSONDecodeError

import httpx2
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_ratelimit_headers
from tenacity import RetryCallState, wait_exponential

from sampling.errors import ConfigurationError, DualSamplingError, PublishError
from sampling.served.refusals import retry_after_s

MAX_TRIES = 5
RETRY_DELAY_S, MAX_RETRY_DELAY_S = 2.0, 300.0  # the Hub counts requests in windows of 300 s
# 409 and 412: another hand committed meanwhile, or the answer to a commit was lost; the next try looks at what is there
TRANSIENT = {408, 409, 412, 429, 500, 502, 503, 504}
AGAIN = "run the same command again: what is there already is not sent again"


def as_ours(error: BaseException, repo_id: str, said: str) -> DualSamplingError:
    """An error of an upload as one of our classes, with what to do."""
    status = _status(error)
    if status == 401:
        return ConfigurationError(
            f"the Hub does not take the token for {repo_id} ({said}); give a valid one, by HF_TOKEN or a"
            " Prefect Secret block named dual-sampling-hub-token"
        )
    if status == 403:
        return ConfigurationError(f"the token may not write to {repo_id} ({said}); give one with write access to it")
    if status is not None and status < 500 and status not in TRANSIENT:
        return ConfigurationError(f"the Hub refuses {repo_id} ({said}); see that publish.hub is an org/name of yours")
    tries = f" after {MAX_TRIES} tries" if is_transient(error) else ""
    return PublishError(f"{repo_id} was not published{tries}: {said}; {AGAIN}")


def _root(error: BaseException) -> BaseException:
    """huggingface_hub wraps what a file's upload raised in a RuntimeError."""
    return error.__cause__ if type(error) is RuntimeError and error.__cause__ is not None else error


def _status(error: BaseException) -> int | None:
    root = _root(error)
    return root.response.status_code if isinstance(root, HfHubHTTPError) else None


def said_of(error: BaseException, token: str) -> str:
    """One line that does not hold the token, whatever the server says."""
    return " ".join(str(_root(error)).replace(token, "<token>").split())[:300] or type(error).__name__


def is_transient(error: BaseException) -> bool:
    """RuntimeError: Xet's uploads fail so. JSONDecodeError: a proxy's page in place of the Hub's answer."""
    if (status := _status(error)) is not None:
        return status in TRANSIENT
    return isinstance(
        _root(error), ConnectionError | TimeoutError | httpx2.TransportError | RuntimeError | JSONDecodeError
    )


def outcome_of(state: RetryCallState) -> BaseException:
    """What a try raised."""
    error = state.outcome.exception() if state.outcome else None
    assert error is not None
    return error


def pause_s_after(state: RetryCallState) -> float:
    """Doubles from RETRY_DELAY_S; longer where the Hub asks for it."""
    pause_s = wait_exponential(RETRY_DELAY_S, MAX_RETRY_DELAY_S)(state)
    root = _root(outcome_of(state))
    if not isinstance(root, HfHubHTTPError):
        return pause_s
    limit = parse_ratelimit_headers(root.response.headers)
    asked_s = limit.reset_in_seconds if limit is not None and limit.remaining == 0 else 0
    return min(max(pause_s, asked_s, retry_after_s(root.response.headers)), MAX_RETRY_DELAY_S)
