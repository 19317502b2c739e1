"""The parts of a shard: its finished completions, committed durably while it is sampled.

A part is a small Parquet file of `RECORD_SCHEMA`, with the completions that failed and the sampler's totals so far in
its metadata. Its name contains a digest of its bytes, which shows a truncated or altered part.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from sampling.errors import OutputError
from sampling.record import RECORD_SCHEMA, to_record_table
from sampling.results import DualOutput, FailedRow
from tasks.run.columns import ENCODING
from tasks.run.pace import Pace
from tasks.store.durable import write_bytes

if TYPE_CHECKING:
    from tasks.store.mirror import Mirror

logger = logging.getLogger(__name__)

Key = tuple[str, int]  # (id, sample_idx)
Totals = dict[str, float]

# A commit costs about 10 ms, half of it in Python beside the thread that steps the engine, and 15 KB of metadata: two a
# second cost nothing noticeable, and a crash loses few rows beside those in flight.
COMMIT_EVERY_S = 0.5
NAME = re.compile(r"(\d{6})-([0-9a-f]{32})\.parquet")
COMMIT = b"commit"


@dataclass(frozen=True, slots=True)
class Failure:
    """A completion that could not be sampled; a resumed run does not try it again."""

    id: str
    sample_idx: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Commit:
    """What a part holds beside its rows."""

    attempt: str
    totals: Totals  # of the attempt so far
    failures: list[Failure]


_COMMITS = TypeAdapter(_Commit)


@dataclass(slots=True)
class Parts:
    """The content of a folder of parts."""

    table: pa.Table  # RECORD_SCHEMA, each (id, sample_idx) once
    names: list[str] = field(default_factory=list)  # of the files
    failures: list[Failure] = field(default_factory=list)
    totals: Totals = field(default_factory=dict)  # of all attempts
    pace: Pace = field(default_factory=list)  # commit by commit
    num_attempts: int = 0
    num_set_aside: int = 0
    num_duplicates: int = 0

    def keys(self) -> list[Key]:
        """Return the keys of the finished completions, in the order of `table`."""
        return list(zip(self.table["id"].to_pylist(), self.table["sample_idx"].to_pylist(), strict=True))

    def done(self) -> set[Key]:
        """Return the keys of the completions that need no sampling: finished or failed."""
        return {*self.keys(), *((failure.id, failure.sample_idx) for failure in self.failures)}


def is_whole(path: Path) -> bool:
    """Return whether a part exists and has the digest that its name contains."""
    return _read_whole(path) is not None


def read_parts(folder: Path, names: Sequence[str] | None = None) -> Parts:
    """Read all parts of a folder, or those named.

    A damaged part is renamed to *.corrupt, so that its rows are sampled again. One of `names` raises OutputError
    instead.
    """
    tables = [RECORD_SCHEMA.empty_table()]
    read: list[str] = []
    failures: dict[Key, Failure] = {}
    attempts: dict[str, Totals] = {}
    pace: Pace = []
    for path in sorted(folder.glob("*.parquet")) if names is None else [folder / name for name in names]:
        if (data := _read_whole(path)) is None:
            if names is not None:
                raise OutputError(f"{path} is missing or damaged; run the same command again to sample its rows again")
            path.rename(path.with_suffix(".corrupt"))
            logger.warning("%s is damaged: set aside, its rows are sampled again", path)
            continue
        read.append(path.name)
        table = pq.ParquetFile(pa.BufferReader(data)).read()  # 2 ms; `read_table` takes 3 ms
        commit = _commit_of(table, path)
        tables.append(table.replace_schema_metadata())
        for failure in commit.failures:
            failures.setdefault((failure.id, failure.sample_idx), failure)
        before, now = attempts.get(commit.attempt, {}), commit.totals
        if "total_s" in now:
            seconds, num_tokens = (now[name] - before.get(name, 0.0) for name in ("total_s", "num_tokens"))
            pace.append((seconds, num_tokens))
        attempts[commit.attempt] = now
    table = pa.concat_tables(tables)
    num_set_aside = len(list(folder.glob("*.corrupt")))
    parts = Parts(table, read, [], sum_totals(attempts.values()), pace, len(attempts), num_set_aside)
    indices = {key: i for i, key in enumerate(parts.keys())}  # of duplicates, which are equal, the last one
    parts.num_duplicates = len(table) - len(indices)
    if parts.num_duplicates:
        parts.table = table.take(pa.array(indices.values(), pa.int64()))
    parts.failures = [failure for key, failure in failures.items() if key not in indices]
    return parts


def _commit_of(table: pa.Table, path: Path) -> _Commit:
    """Return what a part says of its attempt. Raises OutputError for a table of another program."""
    try:
        return _COMMITS.validate_json((table.schema.metadata or {}).get(COMMIT, b""))
    except ValidationError as error:
        raise OutputError(f"{path} is no part of a run; remove it, or ask who wrote it") from error


def _read_whole(path: Path) -> bytes | None:
    """Return a part's content, None when it is missing or does not have the digest in its name."""
    named = NAME.fullmatch(path.name)
    data = path.read_bytes() if named is not None and path.is_file() else b""
    return data if named is not None and named[2] == _digest(data) else None


def sum_totals(many: Iterable[Totals]) -> Totals:
    """Add up the totals of several attempts or shards; of a maximum, return the largest."""
    summed: Totals = {}
    for totals in many:
        for name, value in totals.items():
            old = summed.get(name, 0)
            summed[name] = max(old, value) if name.startswith("max_") else old + value
    return summed


class PartWriter:
    """A thread that commits the rows of one attempt, every COMMIT_EVERY_S."""

    def __init__(
        self,
        folder: Path,
        attempt: str,
        on_commit: Callable[[], None] = lambda: None,
        mirror: Mirror | None = None,
    ) -> None:
        self._folder = folder
        self._mirror = mirror  # uploads each part, too
        self._attempt = attempt
        self._on_commit = on_commit  # called from the writer's thread, at least every COMMIT_EVERY_S
        numbers = [int(path.name[:6]) for path in folder.iterdir() if path.name[:6].isdigit()]
        self._number = max(numbers, default=-1) + 1
        self._waiting: list[DualOutput | FailedRow] = []
        self._totals: Totals = {}
        self._error: BaseException | None = None
        self._lock = threading.Lock()  # guards the waiting rows
        self._commit_lock = threading.Lock()  # one commit at a time
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._commit_regularly, name="part-writer", daemon=True)
        self._thread.start()

    def add(self, result: DualOutput | FailedRow, totals: Totals) -> None:
        """Take a finished row with the attempt's totals so far. Raises the error of a commit or of `on_commit`."""
        if self._error is not None:
            raise self._error
        with self._lock:
            self._waiting.append(result)
            self._totals = totals

    def flush(self) -> None:
        """Commit the waiting rows now. Raises OSError when the disk refuses them."""
        with self._commit_lock:
            with self._lock:
                waiting, self._waiting, totals = self._waiting, [], self._totals
            if waiting:
                self._commit(waiting, totals)

    def close(self) -> None:
        """Commit the waiting rows and end the thread. Raises the error of a commit or of `on_commit`."""
        self._closed.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        self.flush()

    def _commit_regularly(self) -> None:
        while not self._closed.wait(COMMIT_EVERY_S):
            try:
                self.flush()
                self._on_commit()
            except BaseException as error:
                self._error = error
                return

    def _commit(self, results: list[DualOutput | FailedRow], totals: Totals) -> None:
        table = to_record_table([result for result in results if isinstance(result, DualOutput)])
        failures = [
            asdict(Failure(result.id, result.sample_idx, result.error.reason, str(result.error)))
            for result in results
            if isinstance(result, FailedRow)
        ]
        commit = {"attempt": self._attempt, "totals": totals, "failures": failures}
        table = table.replace_schema_metadata({COMMIT: json.dumps(commit)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **ENCODING)
        data = memoryview(sink.getvalue())
        path = self._folder / f"{self._number:06d}-{_digest(data)}.parquet"
        write_bytes(path, data)
        if self._mirror is not None:
            self._mirror.push(path)
        self._number += 1


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
