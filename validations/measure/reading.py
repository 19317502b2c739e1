"""Parquet reader that yields a dataset's rows as Arrow tables of bounded size.

A file of 15 kB can hold gigabytes, so a child process of bounded memory decodes (0.3 s to start).
"""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sampling.bounds import Bounds
from sampling.errors import SourceError
from sampling.processes.child import Child
from sampling.processes.decoding import DECODED_ROWS, END_S, VARIABLES, StoppedError, parquet_batches
from sampling.processes.exits import describe_exit
from sampling.processes.limits import data_bytes, limit
from sampling.record import RECORD_SCHEMA

BATCH_BYTES = 48 << 20  # of Arrow memory; the Python objects of its texts take about as much again
BOUNDS = Bounds()
# Optional: a dataset made elsewhere may lack them; columns of other types under these names are left out.
PROMPT_COLUMNS = ("theta_prompt", "teacher_prompt", "example", "messages")
EXAMPLE_FIELDS = ("question", "answer", "solution", "final_answer")


def read_batches(parquet_files: Sequence[Path], batch_bytes: int = BATCH_BYTES) -> Iterator[pa.Table]:
    """Yield the judged columns, file after file, in tables of at most `batch_bytes`, or of one row.

    Raises SourceError where one row is beyond `bounds.batch_bytes`, OSError where a file is broken.
    """
    with closing(_Decoder()) as decoder:
        for path in parquet_files:
            waiting: list[pa.RecordBatch] = []
            for batch in decoder.batches(path):
                for piece in _pieces(batch, batch_bytes):
                    if waiting and sum(each.nbytes for each in waiting) + piece.nbytes > batch_bytes:
                        yield pa.Table.from_batches(waiting).combine_chunks()
                        waiting = []
                    waiting.append(piece)
            if waiting:
                yield pa.Table.from_batches(waiting).combine_chunks()


def _pieces(batch: pa.RecordBatch, max_bytes: int) -> Iterator[pa.RecordBatch]:
    """Yield a batch in halves that are small enough, or one row."""
    if batch.num_rows > 1 and batch.nbytes > max_bytes:
        half = batch.num_rows // 2
        yield from _pieces(batch.slice(0, half), max_bytes)
        yield from _pieces(batch.slice(half), max_bytes)
    elif batch.num_rows:
        yield batch


class _Decoder:
    """The process that decodes one file after the other; another takes its place after it has stopped."""

    def __init__(self) -> None:
        self._child: Child | None = None

    def batches(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield a file's rows, fewer at once where the process's memory does not suffice."""
        number = 0  # of rows that are done
        for num_rows in DECODED_ROWS:
            self._child = child = self._child or Child(f"{__name__}:serve", subprocess.DEVNULL, variables=VARIABLES)
            try:
                child.connection.send((path, number, num_rows))
                while (batch := _received(child)) is not None:
                    yield batch
                    number += batch.num_rows
                return
            except StoppedError as error:
                ending = str(error)
                self.close()
        raise SourceError(
            f"{path}: row {number + 1} cannot be decoded in bounds.batch_bytes ({BOUNDS.batch_bytes}): {ending}; leave "
            "that row out"
        )

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.kill(END_S)
            self._child = None


def _received(child: Child) -> pa.RecordBatch | None:
    """Return the next batch, None after the last one. Raises StoppedError, OSError for a broken file."""
    try:
        kind, text = child.connection.recv()
        content = child.connection.recv_bytes() if kind == "rows" else b""
    except (EOFError, ConnectionError) as error:
        raise StoppedError(f"the process that decodes it ended {describe_exit(child.process.wait())}") from error
    if kind == "rows":
        return pa.ipc.open_stream(content).read_next_batch()
    if kind == "stopped":
        raise StoppedError(text)
    if kind == "broken":
        raise OSError(text)
    return None


def serve(connection: Connection) -> None:
    """Decode files in the child: send the rows of each after its first ones, batch by batch."""
    limit(resource.RLIMIT_DATA, data_bytes() + 4 * BOUNDS.batch_bytes)
    while True:
        try:
            for batch in _batches(*connection.recv()):
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, batch.schema) as writer:
                    writer.write_batch(batch)
                connection.send(("rows", ""))
                connection.send_bytes(sink.getvalue())
            connection.send(("end", ""))
        except MemoryError:
            connection.send(("stopped", "the memory does not suffice"))
        except (OSError, pa.ArrowException) as error:
            connection.send(("broken", str(error)))


def _batches(path: Path, first: int, num_rows: int) -> Iterator[pa.RecordBatch]:
    """Decode the judged columns of the rows after the first ones, `num_rows` at once."""
    with pq.ParquetFile(path, buffer_size=1 << 20) as file:
        columns = [*RECORD_SCHEMA.names, *_prompt_columns(file.schema_arrow)]
        yield from parquet_batches(file, first, num_rows, columns)


def _prompt_columns(schema: pa.Schema) -> list[str]:
    return [
        name
        for name in PROMPT_COLUMNS
        if schema.get_field_index(name) >= 0 and _has_type(schema.field(name).type, name)  # −1: not there, or twice
    ]


def _has_type(found: pa.DataType, name: str) -> bool:
    """Return whether a column's type is that of its name in the record: texts, or structs of texts."""
    if name == "example":
        return pa.types.is_struct(found) and all(
            _is_text(field.type) or pa.types.is_null(field.type) for field in found if field.name in EXAMPLE_FIELDS
        )
    if name == "messages":
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        if not is_list or not pa.types.is_struct(found.value_type):
            return False
        index = found.value_type.get_field_index("content")
        return index >= 0 and _is_text(found.value_type.field(index).type)
    return _is_text(found)


def _is_text(found: pa.DataType) -> bool:
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found))
