"""A lease on an object in a store: an exclusive claim that its holder renews by conditional writes.

S3 has no locks, but If-None-Match: * (create) and If-Match: <ETag> (replace if unchanged). The holder rewrites a small
object every `beat_s`; an observer that sees no change for `lease_s` of its own clock (clocks of two machines are never
compared) takes it over, and of two observers one wins. A holder that was asleep finds its ETag refused at the next
renewal or `check`. Writes between a `check` and a sleep of more than `lease_s` are not guarded: keep the two close.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sampling.errors import OutputError
from tasks.store.mirror import Mirror
from tasks.store.object_store import Store

logger = logging.getLogger(__name__)

LEASE_S = 30.0  # six renewals: survives a garbage collection, a slow disk or a lost request
BEAT_S = 5.0


class Lease:
    """One process's claim on one object. Thread-safe, not picklable.

    Call the same instance repeatedly: it remembers what it observed. All claimants of an object use the same `lease_s`.
    """

    def __init__(
        self,
        mirror: Mirror,
        path: Path,
        facts: Mapping[str, Any] | None = None,
        *,
        lease_s: float = LEASE_S,
        beat_s: float = BEAT_S,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """Name the object by its local `path`, where no file is made.

        `facts` are stored with the holder's pid, host and time. `on_lost` is called once, in the renewing thread, when
        the lease was taken over or removed.
        """
        self._store, self._name = mirror.store, mirror.name(path)
        self._renewing_store = mirror.store.with_patience(0.0)  # the next renewal is the retry
        self._facts = dict(facts or {})
        self._lease_s, self._beat_s, self._on_lost = lease_s, beat_s, on_lost
        self.lost = False  # whether another process took it while it was held
        self._mutex = threading.Lock()  # guards the following
        self._etag: str | None = None  # None: not held
        self._content = b""
        self._beat = 0
        self._ended = threading.Event()
        self._observed: bytes | None = None  # content of another holder's lease
        self._observed_since = 0.0
        self._is_observed_alive = False

    @property
    def held(self) -> bool:
        """Whether it is held, as far as this process knows."""
        return self._etag is not None

    @property
    def holder(self) -> dict[str, Any] | None:
        """The other holder as last observed: holder (an id), pid, host, since, beat, num_lost, facts; None: nobody."""
        return None if self._observed is None else _parsed(self._observed)

    @property
    def num_lost(self) -> int:
        """How many holders in a row ended without releasing it before this one took it."""
        return _num_lost(self._content)

    def try_acquire(self) -> bool:
        """Take the lease if it is free or its holder known to be dead; return at once whether it is held.

        A holder is dead if a call observes the same content as an earlier call `lease_s` ago. Raises OutputError if the
        store does not respond, or has no conditional writes.
        """
        with self._mutex:
            if self.held:
                return True
            start = time.monotonic()
            try:
                found = self._store.read(self._name)
            except OutputError:
                self._observed = None  # the holder may have been cut off as well: restart the observation
                raise
            if found is not None and not self._is_dead(found.data, start):
                return False
            since = datetime.now(UTC).isoformat(timespec="seconds")
            holder = {"holder": uuid.uuid4().hex, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
            num_lost = 0 if found is None else _num_lost(found.data) + 1
            self._beat = 0
            self._content = self._encode({**self._facts, **holder, "num_lost": num_lost})
            etag = self._store.write_if(self._name, self._content, found and found.etag)
            if etag is None:
                found = self._store.read(self._name)
                if found is None or found.data != self._content:  # another process was faster
                    self._is_observed_alive = found is not None
                    self._observe(found and found.data)
                    return False
                etag = found.etag  # the write succeeded, its response was lost
            self._store.check_conditions(self._name, self._content)
            self._etag, self.lost = etag, False
            self._observed, self._is_observed_alive = None, False
            self._ended.set()  # ends the thread of a lease that was lost
            self._ended = threading.Event()
            threading.Thread(target=self._renew_until, args=(self._ended,), name="lease", daemon=True).start()
            return True

    def acquire(self, wait_s: float = 0.0) -> Self:
        """Take the lease: observe a holder until it is known to be dead or alive, and wait `wait_s` for a live one.

        Raises OutputError, naming the holder, if it is alive: after about `beat_s` plus `wait_s`.
        """
        deadline = time.monotonic() + wait_s
        while not self.watch():
            if time.monotonic() >= deadline:
                holder = {"pid": "?", "host": "?", "since": "?", **(self.holder or {})}
                raise OutputError(
                    f"{self._store.address(self._name)} is held by another run (pid {holder['pid']} on"
                    f" {holder['host']}, since {holder['since']}); wait for it, end it, or choose another"
                    " publish.version"
                )
        return self

    def watch(self) -> bool:
        """Call `try_acquire` until the lease is taken (True) or its holder is known to be alive (False)."""
        self._is_observed_alive = False
        while not self.try_acquire():
            if self._is_observed_alive:
                return False
            time.sleep(min(1.0, self._beat_s / 2))
        return True

    def check(self) -> None:
        """Raise OutputError if the lease was lost or the store does not respond; call before a write that counts."""
        with self._mutex:
            if self.held:  # renew rather than compare times: this machine's clock may have slept with it
                self._renew(self._store)
            if not self.held:
                state = "was taken over by another run" if self.lost else "is not held"
                raise OutputError(
                    f"{self._store.address(self._name)} {state}; what is finished is kept: run the same command again"
                )

    def release(self) -> None:
        """Remove the object if the lease is held. A store that does not respond is no error: the lease expires."""
        self._ended.set()
        with self._mutex:
            if self._etag is None:
                return
            try:
                self._renewing_store.remove_if(self._name, self._etag)
            except OutputError as error:
                logger.warning("not given back, free in %.0f s: %s", self._lease_s, error)
            self._etag = None

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _encode(self, content: Mapping[str, Any]) -> bytes:
        return json.dumps({**content, "beat": self._beat}).encode()

    def _renew_until(self, ended: threading.Event) -> None:
        while not ended.wait(self._beat_s):
            with self._mutex:
                if ended.is_set():
                    return
                if self.held:  # `check` may have found the loss
                    try:
                        self._renew(self._renewing_store)
                    except OutputError as error:
                        logger.warning("not renewed: %s", error)  # `check` raises it in the thread that needs the lease
                if self.held:
                    continue
            logger.error("%s was taken over by another run", self._store.address(self._name))
            if self._on_lost is not None:
                self._on_lost()
            return

    def _renew(self, store: Store) -> None:
        """Write the next beat. If it is refused, the lease is lost, unless the stored object has this holder's id."""
        before = _parsed(self._content)
        self._beat += 1
        content = self._encode(before)
        etag = store.write_if(self._name, content, self._etag)
        if etag is None:
            found = store.read(self._name)
            if found is None or _parsed(found.data).get("holder") != before["holder"]:
                self._etag, self.lost = None, True
                return
            content, etag = found.data, found.etag  # an earlier write succeeded, its response was lost
        self._content, self._etag = content, etag

    def _is_dead(self, content: bytes, start: float) -> bool:
        """Return whether this content, requested at `start`, has been observed for `lease_s`."""
        if self._observed is not None and content != self._observed:
            self._is_observed_alive = True
        # Restart the observation after a slow response: the holder's renewal may have waited for the store as well.
        if content != self._observed or time.monotonic() - start > self._beat_s:
            self._observe(content)
        return start - self._observed_since >= self._lease_s

    def _observe(self, content: bytes | None) -> None:
        self._observed, self._observed_since = content, time.monotonic()


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):  # what a foreign writer left: a million brackets
        return {}
    return content if isinstance(content, dict) else {}


def _num_lost(data: bytes) -> int:
    num_lost = _parsed(data).get("num_lost")
    return num_lost if isinstance(num_lost, int) else 0
