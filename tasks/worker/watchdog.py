"""The watch over an engine that is alive but does nothing any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from sampling.errors import EngineStalledError

ASLEEP_S = 10.0  # it is shown something every second


class Watchdog:
    """Ends the wait for an engine once what it shows has stayed the same for `limit_s` seconds.

    Progress counts, not time: a shard may take a week, as long as tokens come.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._seen: Hashable = None
        self._since = self._looked = clock()

    def see(self, progress: Hashable) -> None:
        """Take what the engine shows now. Raises EngineStalledError."""
        now = self._clock()
        if now - self._looked > ASLEEP_S:  # we slept: a suspended machine, Ctrl-Z
            self._since += now - self._looked
        self._looked = now
        if progress != self._seen:
            self._seen, self._since = progress, now
        elif now - self._since >= self._limit_s:
            raise EngineStalledError(
                f"the engine has drawn no token, finished no row, written no line of its log for {self._limit_s:g} s,"
                " so it is ended; raise shards.stall_timeout_s if its steps take that long"
            )
