"""Limits that a process sets on itself."""

from __future__ import annotations

import resource


def limit(which: int, most: int) -> None:
    """Set a soft limit, the hard one at most, which a user or a batch system may have lowered (`ulimit -v`)."""
    hard = resource.getrlimit(which)[1]
    finite = [value for value in (most, hard) if value != resource.RLIM_INFINITY]
    resource.setrlimit(which, (min(finite, default=resource.RLIM_INFINITY), hard))


def data_bytes() -> int:
    """Return the size of this process's data, which RLIMIT_DATA limits."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
