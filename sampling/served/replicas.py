"""A load balancer with a circuit breaker over the replicas of one model."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

import httpx

from sampling.served.batch_lock import BatchKindLock
from sampling.served.config import HttpConfig
from sampling.served.refusals import TryError

logger = logging.getLogger(__name__)

# A row stays on one replica, whose prefix cache holds it, until that replica has this many times, or this many more,
# requests in flight than the least busy one.
BUSIER_FACTOR, BUSIER_REQUESTS = 2, 4


@dataclass(eq=False, slots=True)
class Replica:
    """The state of one server of a model."""

    url: str
    in_flight: int = 0
    # Kinds: requests for a top-k (False), for named ids (True).
    batch_lock: BatchKindLock = field(default_factory=BatchKindLock, repr=False)
    failures: int = 0  # in a row
    counted_at: float = 0.0  # when the last failure was counted, on the monotonic clock
    last_error: str = "not asked yet"
    idle_connections: list[httpx.AsyncClient] = field(default_factory=list, repr=False)  # most recently used last
    recovery: asyncio.Task[None] | None = field(default=None, repr=False)  # ends the pause; None: it is in use

    @property
    def is_out(self) -> bool:
        return self.recovery is not None


class Replicas:
    """The replicas of one model, each with a circuit breaker.

    After `breaker_failures` failures in a row a replica is left out; `check(replica)` is then called every
    `breaker_pause_s` until it succeeds. A replica that sent Retry-After is left out for that long, without a check. An
    error of `check` other than TryError (ServerRefusedError: it came back with another model) is raised by every later
    `take`.
    """

    def __init__(
        self, name: str, urls: Sequence[str], config: HttpConfig, check: Callable[[Replica], Awaitable[None]]
    ) -> None:
        self.all = [Replica(url) for url in urls]
        self._name = name
        self._config = config
        self._check = check
        self._refused: Exception | None = None
        self._checked = asyncio.Event()  # set, then replaced, after every check or pause

    async def take(self, row: int | None, tried: Collection[Replica]) -> Replica:
        """Return the least busy replica, preferring those not in `tried`.

        Requests with the same `row` get the same replica as long as that is not much busier. When every replica is
        left out, wait for the next check. Raises TryError when that brings none back.
        """
        if all(replica.is_out for replica in self.all) and self._refused is None:
            await self._checked.wait()
        if self._refused is not None:
            raise self._refused
        available = [replica for replica in self.all if not replica.is_out]
        if not available:
            raise TryError("every replica is left out", is_failure=False)
        fresh = [replica for replica in available if replica not in tried] or available
        least = min(fresh, key=lambda replica: replica.in_flight)
        if row is None:
            return least
        home = self.all[row % len(self.all)]
        most = max(BUSIER_FACTOR * least.in_flight, least.in_flight + BUSIER_REQUESTS)
        return home if home in fresh and home.in_flight <= most else least

    def succeeded(self, replica: Replica) -> None:
        """Record a successful request."""
        replica.failures = 0

    def failed(self, replica: Replica, error: TryError, started_at: float) -> None:
        """Record a failed try that began at `started_at` on the monotonic clock.

        Failures of requests that were in flight together count once.
        """
        replica.last_error = str(error)
        if error.is_failure and started_at >= replica.counted_at:
            replica.counted_at = time.monotonic()
            replica.failures += 1
        if replica.is_out:
            return
        if error.is_failure and replica.failures >= self._config.breaker_failures:
            self.leave_out(replica)
        elif error.rest_s > 0:
            replica.recovery = asyncio.create_task(self._recover(replica, error.rest_s))

    def leave_out(self, replica: Replica) -> None:
        """Send this replica nothing until it passes a check."""
        pause_s = self._config.breaker_pause_s
        logger.warning("%s's server %s is left out for %g s: %s", self._name, replica.url, pause_s, replica.last_error)
        replica.recovery = asyncio.create_task(self._recover(replica, pause_s, self._check))

    async def _recover(
        self, replica: Replica, pause_s: float, check: Callable[[Replica], Awaitable[None]] | None = None
    ) -> None:
        """Return a replica to use after a pause, or when `check` succeeds after a pause."""
        while True:
            await asyncio.sleep(pause_s)
            try:
                if check is not None:
                    await check(replica)
                    logger.info("%s's server %s answers again", self._name, replica.url)
                replica.recovery, replica.failures = None, 0
                return
            except TryError as error:
                replica.last_error = str(error)
            except Exception as error:  # another model, or a bug here: nothing awaits this task
                self._refused = error
                return
            finally:
                self._checked.set()
                self._checked = asyncio.Event()

    def describe(self) -> str:
        """Return each replica with its last error, on one line."""
        return "; ".join(f"{replica.url}: {replica.last_error}" for replica in self.all)

    async def close(self) -> None:
        """Cancel the checks."""
        tasks = [replica.recovery for replica in self.all if replica.recovery is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
