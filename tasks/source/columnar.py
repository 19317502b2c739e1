"""A reader of Parquet and Arrow files, which are decoded in a process of bounded memory.

A file of 925 bytes can hold gigabytes, in Arrow by a run length, too, so a child process decodes (0.3 s to start), and
hands over rows of known size.
"""

from __future__ import annotations

import os
import resource
import subprocess
import uuid
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sampling.bounds import Bounds
from sampling.errors import SourceError
from sampling.processes.child import Child
from sampling.processes.decoding import DECODED_ROWS, END_S, VARIABLES, StoppedError, parquet_batches
from sampling.processes.errors import from_message
from sampling.processes.exits import describe_exit
from sampling.processes.limits import data_bytes, limit
from tasks.source.opening import BROKEN, Unpacked, open_seekable
from tasks.source.source_row import VALUE_BYTES, QuarantinedRow, Rows, SourceRow, not_utf8, one_line, oversize

MESSAGE_BYTES = 2 << 20  # of rows that are handed over at once, unless one row is larger
ARROW_FILE = b"ARROW1"  # what the file format begins with; else it is the stream format, as `datasets` writes it

_idle: list[Child] = []  # one that has decoded its file waits for a source's next


def read_columnar(path: Path, bounds: Bounds) -> Rows:
    """Yield the rows of a Parquet or Arrow file. Raises SourceError, also where a row is too large to be decoded."""
    number = 0  # of rows that are done
    with open_seekable(path, bounds) as file:
        for batch_rows in DECODED_ROWS:
            try:
                for row in _decoded(path, file, number, batch_rows, bounds):
                    number += 1
                    yield row
                return
            except StoppedError as error:
                ending = str(error)
    raise SourceError(
        f"{path}: row {number + 1} cannot be decoded in bounds.batch_bytes ({bounds.batch_bytes}): {ending}; leave "
        "that row out, or raise the bound"
    )


def rows_of(batch: pa.RecordBatch, name: str, number: int, bounds: Bounds) -> Rows:
    """Yield the rows of a decoded batch that follow row `number` of `name`; those above `bounds` are set aside."""
    for content in _messages(_plain_batch(batch), bounds):
        for row in _to_rows(content, name, number):
            number += 1
            yield row


def _decoded(path: Path, file: BinaryIO, number: int, batch_rows: int, bounds: Bounds) -> Rows:
    """Yield the rows after the first `number`, decoded by a process of their own. Raises StoppedError, SourceError."""
    child = _idle.pop() if _idle else Child(f"{__name__}:serve", subprocess.DEVNULL, variables=VARIABLES)
    is_done = False
    try:
        child.connection.send((path, number, batch_rows, bounds))
        send_handle(child.connection, file.fileno(), child.process.pid)
        while True:
            kind, content = child.connection.recv()
            if kind == "end":
                is_done = True
                return
            if kind == "stopped":
                raise StoppedError(content)
            if kind == "error":
                raise from_message(content)
            for row in _to_rows(content, str(path), number):
                number += 1
                yield row
    except (EOFError, ConnectionError) as error:
        raise StoppedError(f"the process that decodes it ended {describe_exit(child.process.wait())}") from error
    finally:
        if is_done:
            _idle.append(child)
        else:
            child.kill(END_S)


def end_idle() -> None:
    """End the process that waits for the next file."""
    while _idle:
        _idle.pop().kill(END_S)


def _to_rows(content: str | bytes, path: str, number: int) -> Rows:
    """Return the rows of a message: a batch, or what is wrong with one row."""
    if isinstance(content, str):
        yield QuarantinedRow(f"{path}:{number + 1}", "too_large", content)
        return
    batch = pa.ipc.open_stream(content).read_next_batch()
    try:
        rows = batch.to_pylist()
    except Exception:  # UnicodeDecodeError, OverflowError (a date after 9999), an unknown time zone
        rows = [_to_row(batch.slice(i, 1)) for i in range(batch.num_rows)]
    for i, row in enumerate(rows, start=number + 1):
        location = f"{path}:{i}"
        if isinstance(row, UnicodeDecodeError):
            yield not_utf8(location, row)
        elif isinstance(row, Exception):
            yield QuarantinedRow(location, "wrong_type", one_line(row))
        else:
            yield SourceRow(location, row)


def _to_row(batch: pa.RecordBatch) -> dict[str, Any] | Exception:
    """Return the only row of a batch, dates that Python lacks as text; an error if there is none."""
    failure: Exception = ValueError("no row")
    for of_date in (None, pa.string(), pa.int64()):
        try:
            columns = (column if of_date is None else _as_values(column, of_date) for column in batch.columns)
            return {name: column.to_pylist()[0] for name, column in zip(batch.schema.names, columns, strict=True)}
        except UnicodeDecodeError as error:  # Parquet does not check its text
            return error
        except Exception as error:
            failure = error
    return failure


def _as_values(column: pa.Array, of_date: pa.DataType) -> pa.Array:
    """Return a column with its dates as text or numbers, if Python lacks some of them."""
    try:
        column.to_pylist()
        return column
    except UnicodeDecodeError:
        raise
    except Exception:
        return column.cast(_plain(column.type, lambda kind: of_date if pa.types.is_temporal(kind) else kind))


def _plain(kind: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType] = lambda kind: kind) -> pa.DataType:
    """Return a type whose values stand where they are: no dictionary, view or extension; `leaf` replaces others."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _plain(kind.value_type, leaf)
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type, leaf)
    if types.is_map(kind):
        entry = [("key", _plain(kind.key_type, leaf)), ("value", _plain(kind.item_type, leaf))]
        return pa.list_(pa.struct(entry))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _plain(kind.value_type, leaf)
        return kind if inner == kind.value_type else pa.list_(inner)
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return pa.large_list(_plain(kind.value_type, leaf))
    if types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type, leaf)) for field in kind])
    return {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(kind, leaf(kind))


# --- in the process that decodes ---


def serve(connection: Connection) -> None:
    """Decode the files that messages name, their rows after the first ones, and send them in batches."""
    used = data_bytes()
    while True:
        path, first, batch_rows, bounds = connection.recv()
        limit(resource.RLIMIT_DATA, used + 2 * bounds.batch_bytes)  # a page and what is decoded of it
        try:
            with os.fdopen(recv_handle(connection), "rb") as file:
                unpacked = Unpacked(path, bounds)
                for batch in _batches(file, ".parquet" in path.name.lower(), first, batch_rows, unpacked):
                    plain = _plain_batch(batch)
                    unpacked.add(plain.nbytes)
                    for content in _messages(plain, bounds):
                        connection.send(("rows", content))
            connection.send(("end", None))
        except MemoryError:
            connection.send(("stopped", "the memory does not suffice"))
        except BROKEN as error:
            raise SourceError(f"{path} cannot be read: {one_line(error)}") from error


def _batches(
    file: BinaryIO, is_parquet: bool, first: int, batch_rows: int, unpacked: Unpacked
) -> Iterator[pa.RecordBatch]:
    """Yield the rows after the first ones; count all."""
    file.seek(0)  # the process before may have moved it
    start = file.read(len(ARROW_FILE))
    file.seek(0)
    if is_parquet:
        # These settings stream a column; the default reads each column of a row group whole (102 MB for 100 MB).
        table = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        unpacked.add(VALUE_BYTES * table.metadata.num_rows)
        yield from parquet_batches(table, first, batch_rows)
        return
    if start == ARROW_FILE:
        reader = pa.ipc.open_file(file)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        batches = pa.ipc.open_stream(file)
    for batch in batches:
        skipped = min(first, batch.num_rows)
        first -= skipped
        unpacked.add(VALUE_BYTES * batch.num_rows)
        batch.validate(full=True)  # its offsets come from the file as they are
        for begin in range(skipped, batch.num_rows, batch_rows):
            yield batch.slice(begin, batch_rows)


def _plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch whose columns have plain types, UUIDs as text. Raises SourceError if two have one name."""
    columns = []
    if len(set(batch.schema.names)) < len(batch.schema.names):
        raise SourceError(f"the file names a column twice: {', '.join(batch.schema.names):.300}; rename one")
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if isinstance(field.type, pa.UuidType):
            values = column.cast(field.type.storage_type).to_pylist()
            column = pa.array([None if value is None else str(uuid.UUID(bytes=value)) for value in values], pa.string())
        elif pa.types.is_run_end_encoded(field.type):
            column = pc.run_end_decode(column)
        if (kind := _plain(column.type)) != column.type:
            column = column.cast(kind)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _messages(batch: pa.RecordBatch, bounds: Bounds) -> Iterator[str | bytes]:
    """Yield a batch in pieces that are small enough, as Arrow's stream; for a row that is too large, what is."""
    sizes = {name: _size(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    is_large = sum(sizes.values()) > min(MESSAGE_BYTES, bounds.cell_bytes, bounds.row_bytes)
    if batch.num_rows > 1 and is_large:
        half = batch.num_rows // 2
        yield from _messages(batch.slice(0, half), bounds)
        yield from _messages(batch.slice(half), bounds)
    elif is_large and (problem := oversize({name: size - VALUE_BYTES for name, size in sizes.items()}, bounds)):
        yield problem
    elif batch.num_rows:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        yield sink.getvalue().to_pybytes()


def _size(column: pa.Array) -> int:
    """Return the size of a column's values, as `value_bytes` counts them."""
    kind, size = column.type, VALUE_BYTES * len(column)
    if pa.types.is_struct(kind):
        return size + sum(_size(field) for field in column.flatten())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return size + _size(column.flatten())
    return size + column.nbytes
