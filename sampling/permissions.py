"""Permissions of a configuration in this process: to run code, to write to places, to ask servers that it names.

Whoever may run a deployment chooses its configuration; the environment of the worker decides what that may do.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from sampling.errors import ForbiddenError

CODE = "DUAL_SAMPLING_ALLOW_CODE"  # 0 or 1; flows/orchestration/environment.py sets the default of a deployment's runs
OUTPUT = "DUAL_SAMPLING_OUTPUT_ROOT"  # a folder, or s3://bucket/prefix
SERVERS = "DUAL_SAMPLING_MODEL_SERVERS"  # http(s)://host:port, separated by commas


def check_code(what: str) -> None:
    """Call it before code that a configuration names is imported. Raises ForbiddenError unless CODE is 1 or unset."""
    value = os.environ.get(CODE, "1").strip()
    if value not in ("0", "1"):
        raise ForbiddenError(f"{CODE} is {value!r} in the environment of this process; set it to 0 or 1")
    if value == "0":
        raise ForbiddenError(
            f"{what} runs code that the configuration names, and {CODE} is 0 in the environment of this process (the"
            " default of a deployment's runs): leave it out of the configuration, or set the variable to 1 where the"
            " worker is started"
        )


def check_output(address: str | Path, key: str) -> None:
    """Call it before anything is written to `address`, a path or URL that `key` of a configuration names.

    Raises ForbiddenError unless it lies below OUTPUT, links followed, or OUTPUT is unset.
    """
    root = os.environ.get(OUTPUT, "").strip()
    if root and not _lies_below(str(address), root):
        raise ForbiddenError(
            f"{key} {str(address)!r} lies outside of {root!r}, which {OUTPUT} in the environment of this process allows"
            " alone: choose a place below it, or change the variable where the worker is started"
        )


def check_server(url: str) -> None:
    """Call it before a model's server is asked, which is sent its key. Raises ForbiddenError unless SERVERS names it.

    Host and port must be the same; where SERVERS is unset, any server may be asked.
    """
    allowed = [server for server in os.environ.get(SERVERS, "").split(",") if server.strip()]
    if allowed and _origin(url) not in map(_origin, allowed):
        raise ForbiddenError(
            f"the server {url!r} of a model is none of those that {SERVERS} in the environment of this process allows"
            f" ({', '.join(server.strip() for server in allowed)}): name one of these, or change the variable where the"
            " worker is started"
        )


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url.strip())
    return parts.scheme.lower(), parts.netloc.lower()


def _lies_below(address: str, root: str) -> bool:
    if "://" in address and "://" in root:
        (scheme, *parts), (root_scheme, *root_parts) = _parts(address), _parts(root)
        is_plain = not any(part in ("", ".", "..") for part in parts)
        return is_plain and scheme == root_scheme and parts[: len(root_parts)] == root_parts
    if "://" in address or "://" in root:
        return False
    try:
        return Path(address).expanduser().resolve().is_relative_to(Path(root).expanduser().resolve())
    except (OSError, RuntimeError, ValueError):  # a circle of links, an unknown user, a NUL
        return False


def _parts(url: str) -> list[str]:
    scheme, _, path = url.partition("://")
    return ["s3" if scheme.lower() == "s3a" else scheme.lower(), *path.rstrip("/").split("/")]
