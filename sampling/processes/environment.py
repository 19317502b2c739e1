"""The environment of a child process: this one's, without the secrets that the child does not need."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager

# What looks like a secret is left out, not all but a list: drivers, MPI, modules and sites have names of their own
# (NCCL_*, UCX_*, LD_*). A word counts wherever it stands, with digits or run together (TOKEN1, SECRETKEYBASE): a child
# lacks little by it. Not TOKENIZERS_PARALLELISM, GIT_AUTHOR_NAME, PWD, nor vLLM's settings, which count tokens.
SECRET_NAME = re.compile(
    r"^(?!VLLM_(?!.*(KEY|SECRET|PASSW|AUTH|(?<=_)TOKEN\d*$))).*("
    r"^(AWS|AZURE)_|TOKEN(?!I[SZ])|KEY|SECRET|PASSW|PASSPHRASE|PASSCODE|PASS\d*(_|$)|AUTH(?!OR($|_|S))|CREDENTIAL"
    r"|CREDS?\d*(_|$)|COOKIE|BEARER|PRIVATE|WEBHOOK|JWT|DSN|(?<!^OLD)(?<!^)PWD|(^|_)(PAT|PIN|OTP|SALT)\d*(_|$)"
    r"|CONN(ECTION)?_?STR)",
    re.IGNORECASE,
)
# A URL or an address with a user or a password, such as a database's; what well-known tokens and keys begin with.
SECRET_VALUE = re.compile(
    r"://[^/\s]*@|^[^\s/:@]+:[^\s/@]+@|^(hf_|sk-|gh[oprsu]_|github_pat_|glpat-|xox[a-z]-|eyJ|AKIA|ASIA)|-----BEGIN "
)
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
