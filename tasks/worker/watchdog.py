"""A watchdog for an engine whose process is alive but makes no progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from sampling.errors import EngineStalledError

ASLEEP_S = 10.0  # between two calls of `see`, which come every second


class Watchdog:
    """Raises EngineStalledError once the engine's progress has stayed the same for `limit_s` seconds.

    A shard may take a week, as long as tokens come.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._progress: Hashable = None
        self._changed_at = self._seen_at = clock()

    def see(self, progress: Hashable) -> None:
        """Compare the engine's progress with the last one. Raises EngineStalledError."""
        now = self._clock()
        if now - self._seen_at > ASLEEP_S:  # this process slept: a suspended machine, Ctrl-Z
            self._changed_at += now - self._seen_at
        self._seen_at = now
        if progress != self._progress:
            self._progress, self._changed_at = progress, now
        elif now - self._changed_at >= self._limit_s:
            raise EngineStalledError(
                f"the engine has drawn no token, finished no row, written no line of its log for {self._limit_s:g} s,"
                " so it is ended; raise shards.stall_timeout_s if its steps take that long"
            )
