"""The finished rows of a shard, appended durably while it is sampled.

A part is a small Parquet file of `RECORD_SCHEMA`, with the rows that failed and the engine's totals so far in its
metadata. Its name carries a digest of its bytes, so that a truncated or altered part shows itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

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

# A commit costs about 10 ms, half of it in Python beside the thread that steps the engine, and 15 KB of metadata:
# two a second are free, and what a crash can lose stays small beside the rows in flight.
COMMIT_EVERY_S = 0.5
NAME = re.compile(r"(\d{6})-([0-9a-f]{32})\.parquet")
COMMIT = b"commit"


@dataclass(frozen=True, slots=True)
class Failure:
    """One completion that could not be sampled. It is final: a resumed run does not try it again."""

    id: str
    sample_idx: int
    reason: str
    detail: str


@dataclass(slots=True)
class Parts:
    """What a folder of parts holds."""

    table: pa.Table  # RECORD_SCHEMA, each (id, sample_idx) once
    failures: list[Failure] = field(default_factory=list)
    totals: Totals = field(default_factory=dict)  # of all attempts
    pace: Pace = field(default_factory=list)  # commit by commit
    num_attempts: int = 0
    num_set_aside: int = 0
    num_duplicates: int = 0

    def keys(self) -> list[Key]:
        """The finished completions, in the order of `table`."""
        return list(zip(self.table["id"].to_pylist(), self.table["sample_idx"].to_pylist(), strict=True))

    def done(self) -> set[Key]:
        """The completions that need no sampling: finished or failed."""
        return {*self.keys(), *((failure.id, failure.sample_idx) for failure in self.failures)}


def read_parts(folder: Path) -> Parts:
    """Everything committed to a folder. A damaged part is renamed to *.corrupt and its rows are to be sampled again."""
    tables = [RECORD_SCHEMA.empty_table()]
    failures: dict[Key, Failure] = {}
    attempts: dict[str, Totals] = {}
    pace: Pace = []
    for path in sorted(folder.glob("*.parquet")):
        data = path.read_bytes()
        named = NAME.fullmatch(path.name)
        if named is None or named[2] != _digest(data):
            path.rename(path.with_suffix(".corrupt"))
            logger.warning("%s is damaged: set aside, its rows are sampled again", path)
            continue
        table = pq.ParquetFile(pa.BufferReader(data)).read()  # `read_table` takes 3 ms where this takes 2
        commit = json.loads(table.schema.metadata[COMMIT])
        tables.append(table.replace_schema_metadata())
        for values in commit["failures"]:
            failures.setdefault((values["id"], values["sample_idx"]), Failure(**values))
        before, now = attempts.get(commit["attempt"], {}), commit["totals"]
        if "total_s" in now:
            spent = (now[name] - before.get(name, 0.0) for name in ("total_s", "num_tokens"))
            pace.append((next(spent), next(spent)))
        attempts[commit["attempt"]] = now
    table = pa.concat_tables(tables)
    num_set_aside = len(list(folder.glob("*.corrupt")))
    parts = Parts(table, [], sum_totals(attempts.values()), pace, len(attempts), num_set_aside)
    places = {key: i for i, key in enumerate(parts.keys())}  # a row that is there twice: the later one, both are alike
    parts.num_duplicates = len(table) - len(places)
    if parts.num_duplicates:
        parts.table = table.take(pa.array(places.values(), pa.int64()))
    parts.failures = [failure for key, failure in failures.items() if key not in places]
    return parts


def sum_totals(many: Iterable[Totals]) -> Totals:
    """Totals of several attempts or shards as one: sums, but the largest of what is a maximum."""
    summed: Totals = {}
    for totals in many:
        for name, value in totals.items():
            old = summed.get(name, 0)
            summed[name] = max(old, value) if name.startswith("max_") else old + value
    return summed


class PartWriter:
    """Commits the rows of one attempt in groups, in a thread of its own."""

    def __init__(
        self,
        folder: Path,
        attempt: str,
        on_commit: Callable[[], None] = lambda: None,
        mirror: Mirror | None = None,
    ) -> None:
        self._folder = folder
        self._mirror = mirror  # the object store that a commit goes to, too
        self._attempt = attempt
        self._on_commit = on_commit  # called from the writer's thread, at least every COMMIT_EVERY_S
        numbers = [int(path.name[:6]) for path in folder.iterdir() if path.name[:6].isdigit()]
        self._number = max(numbers, default=-1) + 1
        self._waiting: list[DualOutput | FailedRow] = []
        self._totals: Totals = {}
        self._error: BaseException | None = None
        self._lock = threading.Lock()  # of the waiting rows
        self._commit_lock = threading.Lock()  # one commit at a time
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._commit_regularly, name="part-writer", daemon=True)
        self._thread.start()

    def add(self, result: DualOutput | FailedRow, totals: Totals) -> None:
        """Take a finished row with the attempt's totals so far. Raises what an earlier commit raised."""
        if self._error is not None:
            raise self._error
        with self._lock:
            self._waiting.append(result)
            self._totals = totals

    def flush(self) -> None:
        """Commit what waits, now. Raises OSError when the disk does not take it."""
        with self._commit_lock:
            with self._lock:
                waiting, self._waiting, totals = self._waiting, [], self._totals
            if waiting:
                self._commit(waiting, totals)

    def close(self) -> None:
        """Commit what waits and end the thread. Raises what a commit raised."""
        self._closed.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        self.flush()

    def _commit_regularly(self) -> None:
        while not self._closed.wait(COMMIT_EVERY_S):
            try:
                self.flush()
            except BaseException as error:
                self._error = error
                return
            self._on_commit()

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
