"""The configuration of requests to vLLM servers."""

from __future__ import annotations

import os

from pydantic import Field

from sampling.config import Frozen
from sampling.errors import ConfigurationError


class HttpConfig(Frozen):
    """Number of logprobs per request, retries, concurrency, circuit breaker."""

    top_k: int = Field(20, ge=1, description="Likeliest ids a server is asked for, to start with.")
    max_tail_mass: float = Field(
        1e-3, ge=0.0, le=1.0, description="Ask for more ids where more probability than this lies outside the top-k."
    )
    name_ids: bool = Field(
        True,
        description="Ask for the ids that only the other model named, where the server can; false where several runs"
        " ask one server at a time, whose answers vLLM 0.32 would mix up.",
    )
    request_timeout_s: float = Field(60.0, gt=0.0, description="Longest wait for one answer, seconds; per try.")
    retries: int = Field(5, ge=0, le=100, description="Tries after the first, for servers that fail to answer.")
    retry_delay_s: float = Field(
        0.5, gt=0.0, description="First back-off, seconds; doubled at every retry up to 30 s, half of it by chance."
    )
    max_in_flight: int = Field(256, ge=1, le=10_000, description="Requests in flight at once, per model.")
    breaker_failures: int = Field(8, ge=1, description="Failures in a row after which a replica is left out.")
    breaker_pause_s: float = Field(10.0, gt=0.0, description="Seconds until a replica left out is tried again.")


def api_key(name: str) -> str | None:
    """Return the model's API key, None where none is set. Raises ConfigurationError, which does not show the key."""
    key = os.environ.get(key_variable(name), "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(f"{key_variable(name)} holds what no API key has: a blank, or another character")
    return key or None


def key_variable(name: str) -> str:
    """Return the environment variable of the API key of model `name`, e.g. DUAL_SAMPLING_THETA_API_KEY."""
    return f"DUAL_SAMPLING_{name.upper()}_API_KEY"
