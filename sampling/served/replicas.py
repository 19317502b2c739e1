"""Which replica of a model is asked next."""

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

# A row stays with one replica, whose prefix cache holds it, until that has this many times, or this many, more
# requests in flight than the least busy one.
BUSIER_FACTOR, BUSIER_REQUESTS = 2, 4


@dataclass(eq=False, slots=True)
class Replica:
    """One server of a model: how busy it is, whether it is left out, what it said last when it failed."""

    url: str
    in_flight: int = 0
    batch_lock: BatchKindLock = field(
        default_factory=BatchKindLock, repr=False
    )  # of requests for a top-k, for named ids
    failures: int = 0  # in a row
    counted_at: float = 0.0  # when the last failure was counted, on the monotonic clock
    last_error: str = "not asked yet"
    idle_lanes: list[httpx.AsyncClient] = field(default_factory=list, repr=False)  # the last one used last
    absence: asyncio.Task[None] | None = field(default=None, repr=False)  # brings it back; None: it is asked

    @property
    def is_out(self) -> bool:
        return self.absence is not None


class Replicas:
    """The replicas of one model, each with a circuit breaker.

    `breaker_failures` failures in a row leave a replica out for `breaker_pause_s`; then `check(replica)` asks it,
    again and again until it answers. A server that asks to be left alone (Retry-After) is, without a check. What
    `check` refuses (ServerRefusedError: it came back with another model) is kept and raised by `take`.
    """

    def __init__(
        self, name: str, urls: Sequence[str], config: HttpConfig, check: Callable[[Replica], Awaitable[None]]
    ) -> None:
        self.all = [Replica(url) for url in urls]
        self._name = name
        self._config = config
        self._check = check
        self._refused: Exception | None = None
        self._checked = asyncio.Event()  # set, then replaced, whenever an absent replica was asked

    async def take(self, row: int | None, tried: Collection[Replica]) -> Replica:
        """The replica that a request goes to: the least busy one, one not in `tried` before those in it.

        Rows with the same number stay on one replica as long as that is not much busier. When every replica is
        out, the next check is waited for; TryError when that brings none back.
        """
        if all(replica.is_out for replica in self.all) and self._refused is None:
            await self._checked.wait()
        if self._refused is not None:
            raise self._refused
        asked = [replica for replica in self.all if not replica.is_out]
        if not asked:
            raise TryError("every replica is left out", is_failure=False)
        fresh = [replica for replica in asked if replica not in tried] or asked
        least = min(fresh, key=lambda replica: replica.in_flight)
        if row is None:
            return least
        home = self.all[row % len(self.all)]
        most = max(BUSIER_FACTOR * least.in_flight, least.in_flight + BUSIER_REQUESTS)
        return home if home in fresh and home.in_flight <= most else least

    def succeeded(self, replica: Replica) -> None:
        """Note an answer."""
        replica.failures = 0

    def failed(self, replica: Replica, error: TryError, started_at: float) -> None:
        """Note a failed try that began at `started_at` on the monotonic clock.

        Failures of requests that were in flight together count once: one lost connection is no eight.
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
            replica.absence = asyncio.create_task(self._rest(replica, error.rest_s))

    def leave_out(self, replica: Replica) -> None:
        """Ask this replica nothing more until it has answered a check."""
        pause_s = self._config.breaker_pause_s
        logger.warning("%s's server %s is left out for %g s: %s", self._name, replica.url, pause_s, replica.last_error)
        replica.absence = asyncio.create_task(self._bring_back(replica, pause_s))

    async def _rest(self, replica: Replica, rest_s: float) -> None:
        await asyncio.sleep(rest_s)
        self._back(replica)

    async def _bring_back(self, replica: Replica, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._check(replica)
            except TryError as error:
                replica.last_error = str(error)
                self._wake()
            except Exception as error:  # another model, or our own bug: nobody waits for this task
                self._refused = error
                self._wake()
                return
            else:
                logger.info("%s's server %s answers again", self._name, replica.url)
                self._back(replica)
                return

    def _back(self, replica: Replica) -> None:
        replica.absence, replica.failures = None, 0
        self._wake()

    def _wake(self) -> None:
        self._checked.set()
        self._checked = asyncio.Event()

    def describe(self) -> str:
        """Each replica with its last error, on one line."""
        return "; ".join(f"{replica.url}: {replica.last_error}" for replica in self.all)

    async def close(self) -> None:
        """End the checks."""
        tasks = [replica.absence for replica in self.all if replica.absence is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
