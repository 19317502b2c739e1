"""Heartbeats of the runs that sample shards: small JSON files, rewritten every two seconds."""

from __future__ import annotations

import logging
import os
import socket
import threading
from dataclasses import asdict, dataclass, replace
from typing import Self

from sampling.errors import OutputError
from tasks.run.folder import RunFolder
from tasks.run.progress import Progress
from tasks.store.durable import read_as, write_json

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0


@dataclass(frozen=True, slots=True)
class HeartbeatRecord:
    """The content of a heartbeat file: a run's state."""

    run: str  # the flow run's id
    host: str
    pid: int
    number: int = 0  # of the record; rises as long as the run lives
    shard: int | None = None  # the one it samples
    progress: Progress | None = None  # of that shard


class Heartbeat:
    """A thread that writes a run's records while the context is entered.

    A disk or a store that refuses them costs a warning: the run then counts as lost, but samples nothing twice, because
    each shard is claimed.
    """

    def __init__(self, folder: RunFolder, run: str, interval_s: float = INTERVAL_S) -> None:
        self._folder = folder
        self._path = folder.runs / f"{run}.json"
        self._record = HeartbeatRecord(run, socket.gethostname(), os.getpid())
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._closed = threading.Event()
        folder.runs.mkdir(exist_ok=True)
        self._write()
        self._thread = threading.Thread(target=self._write_regularly, name="heartbeat", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        self._write()

    def show(self, shard: int, progress: Progress) -> None:
        """Record the progress of a shard."""
        with self._lock:
            self._record = replace(self._record, shard=shard, progress=progress)

    def set_idle(self) -> None:
        """Record that the run samples no shard."""
        with self._lock:
            self._record = replace(self._record, shard=None, progress=None)

    def _write_regularly(self) -> None:
        while not self._closed.wait(self._interval_s):
            self._write()

    def _write(self) -> None:
        with self._lock:
            self._record = record = replace(self._record, number=self._record.number + 1)
        try:
            write_json(self._path, asdict(record), unique_temporary_name=True)
            self._folder.upload(self._path)
        except (OSError, OutputError) as error:
            logger.warning("a run's sign of life cannot be written: %s", error)


def read_heartbeats(folder: RunFolder) -> dict[str, HeartbeatRecord]:
    """Return the last record of each run, by the run's id, without those that cannot be read."""
    if folder.mirror is not None:
        for name in folder.mirror.listing(folder.runs):
            folder.mirror.refresh(folder.runs / name)
    records = {}
    for path in folder.runs.glob("*.json"):
        try:
            if (record := read_as(HeartbeatRecord, path)) is not None:
                records[record.run] = record
        except OutputError as error:
            logger.debug("a heartbeat is left out: %s", error)
    return records
