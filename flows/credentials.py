"""Keys and tokens, from the environment or from Prefect's Secret blocks."""

from __future__ import annotations

import os

from prefect.blocks.system import Secret

from sampling.errors import ConfigurationError
from sampling.http.config import key_variable
from tasks.config import PipelineConfig

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


def stored(block: str) -> str | None:
    """What a Secret block of this name holds, None where there is none. Raises ConfigurationError for no text."""
    try:
        secret = Secret.load(block)
    except ValueError:  # what Prefect raises for a block that is not there
        return None
    assert isinstance(secret, Secret)  # a coroutine only where a loop runs
    value = secret.get()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # Prefect reads what looks like JSON as JSON
    if not isinstance(value, str):
        raise ConfigurationError(f"the Prefect Secret block {block} holds a {type(value).__name__}; store a text")
    return value
