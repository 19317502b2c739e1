"""A redirection of stderr while models load, when vLLM's C++ side prints some ten lines a model."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(enabled: bool = True) -> Iterator[None]:
    """Send file descriptor 2 to a temporary file, which is dropped. Exceptions pass through."""
    if not enabled:
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        stderr = os.dup(2)
        try:
            os.dup2(sink.fileno(), 2)
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
