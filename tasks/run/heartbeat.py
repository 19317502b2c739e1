"""What a run that samples shards says of itself, again and again."""

from __future__ import annotations

import logging
import os
import socket
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Self

from sampling.errors import OutputError
from tasks.run.folder import RunFolder
from tasks.run.progress import Progress
from tasks.store.durable import read_json, write_json

logger = logging.getLogger(__name__)

BEAT_S = 2.0


@dataclass(frozen=True, slots=True)
class HeartbeatRecord:
    """One run's word on how far it is."""

    run: str  # the flow run's id
    host: str
    pid: int
    number: int = 0  # rises as long as the run lives
    shard: int | None = None  # the one that it samples
    progress: Progress | None = None  # of that shard


class Heartbeat:
    """Writes a run's beats from a thread of its own until it is closed.

    A disk, or a store, that does not take them costs a warning: the run is then taken for lost, which samples nothing
    twice, as each shard is claimed.
    """

    def __init__(self, folder: RunFolder, run: str, beat_s: float = BEAT_S) -> None:
        self._folder = folder
        self._path = folder.runs / f"{run}.json"
        self._beat = HeartbeatRecord(run, socket.gethostname(), os.getpid())
        self._beat_s = beat_s
        self._lock = threading.Lock()
        self._closed = threading.Event()
        folder.runs.mkdir(exist_ok=True)
        self._write()
        self._thread = threading.Thread(target=self._write_regularly, name="heartbeat", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()
        self._write()

    def show(self, shard: int, progress: Progress) -> None:
        """Take how far a shard is."""
        with self._lock:
            self._beat = replace(self._beat, shard=shard, progress=progress)

    def set_idle(self) -> None:
        """Take that the run is at no shard."""
        with self._lock:
            self._beat = replace(self._beat, shard=None, progress=None)

    def _write_regularly(self) -> None:
        while not self._closed.wait(self._beat_s):
            self._write()

    def _write(self) -> None:
        with self._lock:
            self._beat = beat = replace(self._beat, number=self._beat.number + 1)
        try:
            write_json(self._path, asdict(beat), unique_temporary_name=True)
            self._folder.upload(self._path)
        except (OSError, OutputError) as error:
            logger.warning("a run's sign of life cannot be written: %s", error)


def read_heartbeats(folder: RunFolder) -> dict[str, HeartbeatRecord]:
    """The last beat of each run, by the run's id; one that cannot be read is none, for it is no data of the run's."""
    if folder.mirror is not None:
        for name in folder.mirror.listing(folder.runs):
            folder.mirror.refresh(folder.runs / name)
    beats = {}
    for path in folder.runs.glob("*.json"):
        with suppress(OutputError):
            if (values := read_json(path)) is not None:
                progress = values.pop("progress")
                beat = HeartbeatRecord(**values, progress=Progress(**progress) if progress else None)
                beats[beat.run] = beat
    return beats
