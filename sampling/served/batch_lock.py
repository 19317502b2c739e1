"""An asyncio lock that keeps two kinds of requests out of one vLLM batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class BatchKindLock:
    """A lock that any number of requests of one kind hold together, and never requests of both kinds.

    While one kind holds it or waits for it, new requests of the other kind wait, then enter together. Needed because
    vLLM 0.32 (v1/sample/sampler.py) returns the logprobs of named ids for every row of a batch as soon as one row asks
    for them: another row's top-k would be its drawn id alone.
    """

    def __init__(self) -> None:
        self._num_holders: dict[bool, int] = {False: 0, True: 0}
        self._waiters: dict[bool, list[asyncio.Future[None]]] = {False: [], True: []}

    @asynccontextmanager
    async def hold(self, kind: bool) -> AsyncIterator[None]:
        """Hold the lock for a request of this kind while the block runs."""
        if self._num_holders[not kind] or self._waiters[not kind]:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters[kind].append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled():  # the lock was granted before the cancellation arrived
                    self._release(kind)
                elif waiter in self._waiters[kind]:
                    self._waiters[kind].remove(waiter)
                raise
        else:
            self._num_holders[kind] += 1
        try:
            yield
        finally:
            self._release(kind)

    def _release(self, kind: bool) -> None:
        self._num_holders[kind] -= 1
        if self._num_holders[kind]:
            return
        for next_kind in (not kind, kind):
            if waiters := [waiter for waiter in self._waiters[next_kind] if not waiter.cancelled()]:
                self._waiters[next_kind] = []
                self._num_holders[next_kind] = len(waiters)
                for waiter in waiters:
                    waiter.set_result(None)
                return
