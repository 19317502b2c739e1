"""Keys and tokens, from the environment or from Prefect's Secret blocks."""

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
    """The API keys of served models, by the environment variable that the engine's process reads.

    A variable that holds one stays; else the Secret block dual-sampling-theta-api-key (…-teacher-…), where there is
    one.
    """
    keys = {}
    for name in ("theta", "teacher") if config.models.theta.urls else ():
        if not os.environ.get(key_variable(name)) and (key := stored(f"dual-sampling-{name}-api-key")) is not None:
            keys[key_variable(name)] = key
    return keys


def storage_options(place: str) -> dict[str, Any]:
    """What an object store is asked with, besides AWS_* of the environment: the Secret block dual-sampling-storage.

    It holds an object of s3fs's options: key, secret, endpoint_url, …. Empty for a folder, and where no Prefect server
    is set, for one would have to be started to look. Raises ConfigurationError for anything but an object.
    """
    if "://" not in place or PREFECT_API_URL.value() is None:
        return {}
    options = _loaded(STORAGE)
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise ConfigurationError(
            f"the Prefect Secret block {STORAGE} holds a {type(options).__name__}; store an object:"
            ' {"key": …, "secret": …, "endpoint_url": …}'
        )
    return options


def stored(block: str) -> str | None:
    """What a Secret block of this name holds, None where there is none. Raises ConfigurationError for no text."""
    value = _loaded(block)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # Prefect reads what looks like JSON as JSON
    if not isinstance(value, str):
        raise ConfigurationError(f"the Prefect Secret block {block} holds a {type(value).__name__}; store a text")
    return value


def _loaded(block: str) -> Any:
    try:
        secret = Secret.load(block)
    except ValueError:  # what Prefect raises for a block that is not there
        return None
    except HTTPError as error:
        raise ConfigurationError(
            f"Prefect's server ({PREFECT_API_URL.value()}) was asked for the Secret block {block} and does not answer"
            f" ({type(error).__name__}); start it, or unset PREFECT_API_URL"
        ) from error
    assert isinstance(secret, Secret)  # a coroutine only where a loop runs
    return secret.get()
