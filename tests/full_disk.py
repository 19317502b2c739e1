"""A stand-in for a full disk: a process whose files may not grow beyond a size."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

FULL = "File too large"  # EFBIG, which tasks.store.durable takes for a full disk, as it does ENOSPC


def fill(num_bytes: int, pid: int = 0) -> None:
    """Have each write beyond `num_bytes` of a file fail, in a process that may run already; 0: this one."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(pid or os.getpid(), resource.RLIMIT_FSIZE, (num_bytes, hard))


@contextmanager
def full_disk(num_bytes: int = 0) -> Iterator[None]:
    """Have this process's writes fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    fill(num_bytes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
