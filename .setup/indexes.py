"""Where packages come from: pip's own settings, in the words that uv reads."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

# A later section of pip's settings goes before an earlier one, as in pip itself.
PIP_SECTIONS = ("global", "install", ":env:")


def pip_settings(python: Path) -> dict[str, str]:
    """Return what pip under `python` would use, by its long option's name without dashes in front."""
    listing = subprocess.run([python, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True).stdout
    sections: dict[str, dict[str, str]] = {name: {} for name in PIP_SECTIONS}
    for line in listing.splitlines():
        key, _, quoted = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in sections:
            sections[section][option] = ast.literal_eval(quoted)
    return {option: value for name in PIP_SECTIONS for option, value in sections[name].items()}


def uv_environment(python: Path) -> dict[str, str]:
    """Return this process's environment with pip's indexes, folders and certificates added for uv.

    They go by the environment because an index's address may hold a password, which a command line shows.
    What the user has set for uv is left as it is.
    """
    pip = pip_settings(python)
    uv = {
        "UV_DEFAULT_INDEX": pip.get("index-url", ""),
        "UV_INDEX": " ".join(pip.get("extra-index-url", "").split()),
        "UV_FIND_LINKS": ",".join(pip.get("find-links", "").split()),
        "UV_INSECURE_HOST": " ".join(pip.get("trusted-host", "").split()),
        "UV_NO_INDEX": "1" if pip.get("no-index", "").lower() in ("1", "true", "yes", "on") else "",
        "SSL_CERT_FILE": pip.get("cert", ""),
        "ALL_PROXY": pip.get("proxy", ""),
        # pip takes the best version of all indexes; uv alone stops at the first index that has the name.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        # The environment's Python is the one that the user has: uv is not to fetch another.
        "UV_PYTHON_DOWNLOADS": "never",
    }
    return {name: value for name, value in uv.items() if value} | dict(os.environ)
