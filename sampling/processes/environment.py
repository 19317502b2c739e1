"""The environment of a child process: this one's, without the secrets that the child does not need."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager

# By its name: HF_TOKEN, OPENAI_API_KEY, PGPASSWORD, PREFECT_API_AUTH_STRING; not TOKENIZERS_PARALLELISM, not PWD.
SECRET_NAME = re.compile(
    r"^(AWS|AZURE)_|_(PWD|PAT)$|(TOKEN|KEY|SECRET|PASS|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|AUTH|COOKIE)S?(_|$)"
    r"|CONN(ECTION)?_?STR(ING)?$",
    re.IGNORECASE,
)
SECRET_VALUE = re.compile(r"://[^/\s]*@")  # a URL with a user or a password, such as a database's
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
OBJECT_STORE = ("AWS_",)


def environment(keep: Collection[str] = (), **variables: str) -> dict[str, str]:
    """Return the environment of a Python process that imports what this one could.

    Variables that look like a secret are left out, but for those whose names begin with one of `keep`, in any case;
    `variables` are added.
    """
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    hidden = _secrets(keep)
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, **variables, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}


@contextmanager
def without_secrets(keep: Collection[str]) -> Iterator[None]:
    """Hide secrets from this process, for a library that hands its environment to a process that it starts."""
    hidden = _secrets(keep)
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _secrets(keep: Collection[str]) -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if (SECRET_NAME.search(name) or SECRET_VALUE.search(value)) and not name.upper().startswith(tuple(keep))
    }


def private(path: str, flags: int) -> int:
    """Open a file for this user alone: an `opener` of `open`, for logs, which may hold prompts. No link is followed."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)  # it may be there already
    return descriptor
