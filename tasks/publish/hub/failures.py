"""Errors of uploads to the Hub: which are retried, after which delay, and their messages."""

from __future__ import annotations

from json import JSONDecodeError

import httpx2
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_ratelimit_headers
from tenacity import RetryCallState, wait_exponential

from sampling.errors import ConfigurationError, DualSamplingError, PublishError
from sampling.served.refusals import retry_after_s

MAX_TRIES = 5
UNREADABLE = (LookupError, TypeError, AttributeError)  # huggingface_hub's, of an answer that lacks what it reads
RETRY_DELAY_S, MAX_RETRY_DELAY_S = 2.0, 300.0  # the Hub counts requests in windows of 300 s
# 409, 412: someone else committed meanwhile, or the response to a commit was lost; a retry starts from what is there.
TRANSIENT = {408, 409, 412, 429, 500, 502, 503, 504}
AGAIN = "run the same command again: what is there already is not sent again"


def upload_error(error: BaseException, repo_id: str, text: str) -> DualSamplingError:
    """Return an error of an upload, whose own text is `text`, as one of this project's, with advice."""
    status = _status(error)
    if status == 401:
        return ConfigurationError(
            f"the Hub does not take the token for {repo_id} ({text}); give a valid one, by HF_TOKEN or a"
            " Prefect Secret block named dual-sampling-hub-token"
        )
    if status == 403:
        return ConfigurationError(f"the token may not write to {repo_id} ({text}); give one with write access to it")
    if status is not None and status < 500 and status not in TRANSIENT:
        return ConfigurationError(f"the Hub refuses {repo_id} ({text}); see that publish.hub is an org/name of yours")
    tries = f" after {MAX_TRIES} tries" if is_transient(error) else ""
    return PublishError(f"{repo_id} was not published{tries}: {text}; {AGAIN}")


def _root(error: BaseException) -> BaseException:
    """Return the cause of a RuntimeError, in which huggingface_hub wraps the error of a file's upload."""
    return error.__cause__ if type(error) is RuntimeError and error.__cause__ is not None else error


def _status(error: BaseException) -> int | None:
    root = _root(error)
    return root.response.status_code if isinstance(root, HfHubHTTPError) else None


def text_of(error: BaseException, token: str) -> str:
    """Return an error's text in one line, without the token, which a server's response may contain."""
    text = " ".join(str(_root(error)).replace(token, "<token>").split())[:300] or type(error).__name__
    return f"an answer that cannot be read ({type(error).__name__}: {text})" if isinstance(error, UNREADABLE) else text


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may help.

    RuntimeError is raised by Xet's uploads, JSONDecodeError for a proxy's HTML page in place of the Hub's response.
    """
    if (status := _status(error)) is not None:
        return status in TRANSIENT
    return isinstance(
        _root(error), ConnectionError | TimeoutError | httpx2.TransportError | RuntimeError | JSONDecodeError
    )


def outcome_of(state: RetryCallState) -> BaseException:
    """Return the error of a try."""
    error = state.outcome.exception() if state.outcome else None
    assert error is not None
    return error


def delay_s_after(state: RetryCallState) -> float:
    """Return the delay before the next try: doubling from RETRY_DELAY_S, or longer as the Hub's headers request."""
    delay_s = wait_exponential(RETRY_DELAY_S, MAX_RETRY_DELAY_S)(state)
    root = _root(outcome_of(state))
    if not isinstance(root, HfHubHTTPError):
        return delay_s
    limit = parse_ratelimit_headers(root.response.headers)
    reset_s = limit.reset_in_seconds if limit is not None and limit.remaining == 0 else 0
    return min(max(delay_s, reset_s, retry_after_s(root.response.headers)), MAX_RETRY_DELAY_S)
