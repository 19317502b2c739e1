"""Turns of two kinds of requests that must not share a batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class BatchKindLock:
    """Lets requests of one kind in together; those of the other kind wait until they are done, then go together.

    vLLM 0.32 (v1/sample/sampler.py) gives every row of a batch the logprobs of named ids as soon as one asks for them:
    another row's top-k would be its drawn id alone.
    """

    def __init__(self) -> None:
        self._inside: dict[bool, int] = {False: 0, True: 0}
        self._waiting: dict[bool, list[asyncio.Future[None]]] = {False: [], True: []}

    @asynccontextmanager
    async def of(self, kind: bool) -> AsyncIterator[None]:
        """Wait for a turn of this kind; the block is within it."""
        if self._inside[not kind] or self._waiting[not kind]:
            turn = asyncio.get_running_loop().create_future()
            self._waiting[kind].append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # it was let in, and cancelled before it heard of it
                    self._leave(kind)
                elif turn in self._waiting[kind]:
                    self._waiting[kind].remove(turn)
                raise
        else:
            self._inside[kind] += 1
        try:
            yield
        finally:
            self._leave(kind)

    def _leave(self, kind: bool) -> None:
        self._inside[kind] -= 1
        if self._inside[kind]:
            return
        for following in (not kind, kind):
            batch_lock = [turn for turn in self._waiting[following] if not turn.cancelled()]
            if batch_lock:
                self._waiting[following] = []
                self._inside[following] = len(batch_lock)
                for turn in batch_lock:
                    turn.set_result(None)
                return
