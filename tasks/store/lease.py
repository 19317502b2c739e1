"""A claim on something in an object store, which others respect while it is renewed.

S3 has no locks, but writes that are refused when the object is there already (If-None-Match: *), or is another one
than was read (If-Match: its tag). A lease is a small object, created by the first and rewritten by its holder every
`beat_s`. Who finds it held looks again: when its content has not changed for `lease_s` of the observer's own clock (the
clocks of two machines are never compared) its holder is dead, and a conditional write takes it over: of two observers
one wins. A holder that was only asleep finds its tag refused, and has lost.

A lease that was lost is known at the next beat, or at `check`, which asks the store itself where the last beat is old.
What is written between a `check` and a nap of more than `lease_s` is not guarded: keep the two close together.
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

LEASE_S = 30.0  # six beats: a garbage collection, a slow disk or a lost request kills nobody
BEAT_S = 5.0


class Lease:
    """One process's claim; the same object must look again and again, because it remembers what it saw.

    `facts` are written beside the holder's pid, host and time. `on_lost` is called once, in the renewing thread, when
    the lease was taken over, or removed. All who claim one thing say the same `lease_s`. Safe to use from several
    threads; never pickled.
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
        """`path` is the local path whose object is the lease; no local file is made."""
        self._store, self._name = mirror.store, mirror.name(path)
        self._beats = mirror.store.with_patience(0.0)  # the next beat is the next try
        self._facts = dict(facts or {})
        self._lease_s, self._beat_s, self._on_lost = lease_s, beat_s, on_lost
        self._guard = threading.Lock()  # of what follows
        self._tag: str | None = None  # None: not held
        self._content = b""
        self._beat = 0
        self._renewed_at = 0.0
        self._lost = False
        self._ended = threading.Event()
        self._seen: bytes | None = None  # content of another's lease
        self._seen_since = 0.0
        self._is_seen_alive = False

    @property
    def lost(self) -> bool:
        """Whether somebody else took it while it was held."""
        return self._lost

    @property
    def held(self) -> bool:
        """Whether it is held as far as is known here."""
        return self._tag is not None

    @property
    def holder(self) -> dict[str, Any] | None:
        """What another wrote, as last seen: holder (an id), pid, host, since, beat, num_lost, facts; None: nobody."""
        return None if self._seen is None else _parsed(self._seen)

    @property
    def num_lost(self) -> int:
        """How many holders ended without giving it back, one after the other, before this one took it."""
        return _num_lost(self._content)

    def try_acquire(self) -> bool:
        """Take it where it is free or its holder known to be dead; whether it was taken. Returns at once.

        A holder is known to be dead when a call finds what an earlier one found `lease_s` ago. Raises OutputError when
        the store does not answer, or has no conditional writes.
        """
        with self._guard:
            if self.held:
                return True
            began = time.monotonic()
            try:
                found = self._store.read(self._name)
            except OutputError:
                self._seen = None  # the holder may have been cut off as well: watch it anew
                raise
            if found is not None and not self._is_dead(found.data, began):
                return False
            self._new_content(0 if found is None else _num_lost(found.data) + 1)
            tag = self._store.write_if(self._name, self._content, found and found.tag)
            if tag is None:
                found = self._store.read(self._name)
                if found is None or found.data != self._content:  # another was faster
                    self._is_seen_alive = found is not None
                    self._look(found and found.data)
                    return False
                tag = found.tag  # it was ours: the store's first answer was lost
            self._store.check_conditions(self._name, self._content)
            self._begin(tag, began)
            return True

    def acquire(self, wait_s: float = 0.0) -> Self:
        """Take it; a holder that may be dead is watched until that is known, a live one is waited for `wait_s`.

        Raises OutputError, naming the holder, when it lives: after `beat_s` or so, and `wait_s`.
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
        """Take it, or see that its holder lives: whether it was taken. Raises OutputError like `try_acquire`."""
        self._is_seen_alive = False
        while not self.try_acquire():
            if self._is_seen_alive:
                return False
            time.sleep(min(1.0, self._beat_s / 2))
        return True

    def check(self) -> None:
        """Call before what counts. Raises OutputError when the lease was lost, or the store does not answer."""
        with self._guard:
            if self.held:  # by the store's word: this machine's clock may have slept with it
                self._renew(self._store)
            if not self.held:
                state = "was taken over by another run" if self._lost else "is not held"
                raise OutputError(
                    f"{self._store.address(self._name)} {state}; what is finished is kept: run the same command again"
                )

    def release(self) -> None:
        """Give it back, if it is still ours; a store that does not answer is no error: others find the lease dead."""
        self._ended.set()
        with self._guard:
            if self._tag is None:
                return
            try:
                self._beats.remove_if(self._name, self._tag)
            except OutputError as error:
                logger.warning("not given back, free in %.0f s: %s", self._lease_s, error)
            self._tag = None

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _new_content(self, num_lost: int) -> None:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"holder": uuid.uuid4().hex, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
        self._beat = 0
        self._content = self._encode({**self._facts, **holder, "num_lost": num_lost})

    def _encode(self, content: Mapping[str, Any]) -> bytes:
        return json.dumps({**content, "beat": self._beat}).encode()

    def _begin(self, tag: str, began: float) -> None:
        self._tag, self._renewed_at, self._lost = tag, began, False
        self._seen, self._is_seen_alive = None, False
        self._ended.set()  # of the thread of a lease that was lost
        self._ended = threading.Event()
        threading.Thread(target=self._renew_until, args=(self._ended,), name="lease", daemon=True).start()

    def _renew_until(self, ended: threading.Event) -> None:
        while not ended.wait(self._beat_s):
            with self._guard:
                if ended.is_set():
                    return
                if self.held:  # `check` may have found the loss
                    try:
                        self._renew(self._beats)
                    except OutputError as error:
                        logger.warning("not renewed: %s", error)  # `check` raises it to those whom it concerns
                if self.held:
                    continue
            logger.error("%s was taken over by another run", self._store.address(self._name))
            if self._on_lost is not None:
                self._on_lost()
            return

    def _renew(self, store: Store) -> None:
        """Write the next beat. Where that is refused, the lease is lost, unless it is found to be ours."""
        began, before = time.monotonic(), _parsed(self._content)
        self._beat += 1
        content = self._encode(before)
        tag = store.write_if(self._name, content, self._tag)
        if tag is None:
            found = store.read(self._name)
            if found is None or _parsed(found.data).get("holder") != before["holder"]:
                self._tag, self._lost = None, True
                return
            content, tag = found.data, found.tag  # ours: the store's first answer was lost
        self._content, self._tag, self._renewed_at = content, tag, began

    def _is_dead(self, content: bytes, began: float) -> bool:
        """Whether this is what was seen `lease_s` ago; `began` is when it was asked for."""
        now = time.monotonic()
        if self._seen is not None and content != self._seen:
            self._is_seen_alive = True
        # A look that took long says that the store was away: for the holder, too, which could not renew.
        if content != self._seen or now - began > self._beat_s:
            self._look(content)
        return began - self._seen_since >= self._lease_s

    def _look(self, content: bytes | None) -> None:
        self._seen, self._seen_since = content, time.monotonic()


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _num_lost(data: bytes) -> int:
    num_lost = _parsed(data).get("num_lost")
    return num_lost if isinstance(num_lost, int) else 0
