"""Credentials from the environment or from Prefect's Secret blocks."""

from __future__ import annotations

import os
from typing import Any

from httpx import HTTPError
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL

from sampling.errors import ConfigurationError
from sampling.served.config import key_variable
from tasks.config import PipelineConfig

STORAGE = "dual-sampling-storage"
HUB_TOKEN = "dual-sampling-hub-token"


def server_keys(config: PipelineConfig) -> dict[str, str]:
    """Return API keys of served models, by the environment variable that the engine's process reads.

    They come from the Secret blocks dual-sampling-theta-api-key and dual-sampling-teacher-api-key. A key is left out
    where its variable is set already, or its block does not exist.
    """
    keys = {}
    for name in ("theta", "teacher") if config.models.theta.urls else ():
        if not os.environ.get(key_variable(name)) and (key := stored(f"dual-sampling-{name}-api-key")) is not None:
            keys[key_variable(name)] = key
    return keys


def storage_options(address: str) -> dict[str, Any]:
    """Return s3fs's options for an object store (key, secret, endpoint_url, …), besides AWS_* of the environment.

    They come from the Secret block dual-sampling-storage. Empty for a folder, and without PREFECT_API_URL, because a
    server would have to be started to look. Raises ConfigurationError for anything but an object.
    """
    if "://" not in address or PREFECT_API_URL.value() is None:
        return {}
    options = _load(STORAGE)
    if options is not None and not isinstance(options, dict):
        raise ConfigurationError(
            f"the Prefect Secret block {STORAGE} holds a {type(options).__name__}; store an object:"
            ' {"key": …, "secret": …, "endpoint_url": …}'
        )
    return options or {}


def stored(block: str) -> str | None:
    """Return the text of a Secret block, None without such a block. Raises ConfigurationError for no text."""
    value = _load(block)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # Prefect parses what looks like JSON
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"the Prefect Secret block {block} holds a {type(value).__name__}; store a text")
    return value


def _load(block: str) -> Any:
    try:
        secret = Secret.load(block)
    except ValueError:  # Prefect's error for a block that does not exist
        return None
    except HTTPError as error:
        raise ConfigurationError(
            f"Prefect's server ({PREFECT_API_URL.value()}) was asked for the Secret block {block} and does not answer"
            f" ({type(error).__name__}); start it, or unset PREFECT_API_URL"
        ) from error
    assert isinstance(secret, Secret)  # a coroutine only in an event loop
    return secret.get()
