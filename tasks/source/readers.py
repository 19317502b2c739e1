"""Rows of one local file, read as a stream.

A line that is broken (not UTF-8, not JSON, not an object, not as wide as the header) is set aside with its place
and never stops the read. `datasets` would stop at the first one, guess types from text ("007" becomes 7) and, for
Parquet, take 11.6 s where pyarrow takes 0.4 s (200,000 rows), so it reads the Hub alone: see `tasks.source.source`.

Text is decoded with `surrogateescape` where a reader cannot go line by line: the bad byte travels inside its field
to the row's own UTF-8 check (`tasks.source.rows`), which sets that one row aside.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from sampling.errors import SourceError
from tasks.source.json_list import list_items

MAX_CELL_CHARS = 1 << 26  # Python's own limit, 131,072, is less than a long conversation
FORMATS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "txt",
}
WRAPPERS = ("data", "rows", "train", "examples", "instances", "items")  # {"data": [row, …]}


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row as the source holds it."""

    where: str  # file:line, or file:row number counted from 1
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """One row set aside, with the reason it is counted under."""

    row: str  # where it stands: file:line, or file:row number
    reason: str  # a snake_case word
    detail: str
    id: str | None = None  # the row's id, once it could be read


Rows = Iterator[SourceRow | QuarantinedRow]


def format_of(path: Path) -> str | None:
    """The format that a file's name tells, compressed or not; None when it is none of ours."""
    name = path.name.lower().removesuffix(".gz")
    return FORMATS.get(Path(name).suffix)


def read_rows(path: Path) -> Rows:
    """The rows of a file of a known format. Raises SourceError when the file as a whole cannot be read."""
    readers = {"json": _json, "jsonl": _jsonl, "csv": _csv, "parquet": _parquet, "txt": _txt}
    file_format = format_of(path)
    assert file_format is not None
    try:
        yield from readers[file_format](path)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise SourceError(f"{path} cannot be read as {file_format}: {one_line(error)}") from error


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb"))


def _open_text(path: Path) -> TextIO:
    return io.TextIOWrapper(_open(path), encoding="utf-8-sig", errors="surrogateescape", newline="")


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Place and bytes of every line that holds something."""
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield f"{path}:{number}", text.rstrip(b"\r\n")


def _jsonl(path: Path) -> Rows:
    for where, line in _lines(path):
        try:
            value = json.loads(line.decode())
        except UnicodeDecodeError as error:
            yield _not_utf8(where, error)
        except (ValueError, RecursionError) as error:
            yield QuarantinedRow(where, "not_json", one_line(error))
        else:
            yield _row(where, value)


def _txt(path: Path) -> Rows:
    for where, line in _lines(path):
        try:
            yield SourceRow(where, {"text": line.decode()})
        except UnicodeDecodeError as error:
            yield _not_utf8(where, error)


def _csv(path: Path) -> Rows:
    """Rows of strings: what stands in the file, no type guessed."""
    delimiter = "\t" if ".tsv" in path.name.lower() else ","
    csv.field_size_limit(MAX_CELL_CHARS)
    with _open_text(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = [name or f"column_{i}" for i, name in enumerate(next(filter(None, reader), []))]
        except csv.Error as error:
            raise SourceError(f"{path}: the header is not CSV: {error}") from error
        if len(set(header)) < len(header):
            raise SourceError(f"{path}: the header names a column twice: {', '.join(header)}; rename one")
        while True:
            first_line = reader.line_num + 1
            where = f"{path}:{first_line}"
            try:
                values = next(reader, None)
            except csv.Error as error:
                detail = f"lines {first_line} to {reader.line_num}: {error}"
                yield QuarantinedRow(where, "not_csv", detail)
                continue
            if values is None:
                return
            if len(values) == len(header):
                yield SourceRow(where, dict(zip(header, values, strict=True)))
            elif values:  # an empty line is no row
                detail = f"{len(values)} values for the header's {len(header)} columns"
                yield QuarantinedRow(where, "not_csv", detail)


def _parquet(path: Path) -> Rows:
    packed = path.suffix.lower() == ".gz"
    with tempfile.TemporaryFile() as unpacked, _open(path) as file:
        if packed:  # Parquet is read from its end: unpack to a disk, not to memory
            shutil.copyfileobj(file, unpacked)
            unpacked.seek(0)
        # These settings stream a column; the default reads each column of a row group whole (102 MB for 100 MB).
        table = pq.ParquetFile(unpacked if packed else file, buffer_size=1 << 20, pre_buffer=False)
        number = 0
        for batch in table.iter_batches(batch_size=256):
            for fields in _batch_rows(batch):
                number += 1
                where = f"{path}:{number}"
                yield _not_utf8(where, fields) if isinstance(fields, UnicodeDecodeError) else SourceRow(where, fields)


def _batch_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """The rows of a batch; the error instead of a row whose text is not UTF-8 (Parquet does not check it)."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for i in range(batch.num_rows):
            try:
                yield batch.slice(i, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield error


def _json(path: Path) -> Rows:
    """A list of rows, an object that holds them, or JSON lines under the wrong name."""
    with _open_text(path) as file:
        start = file.read(4096).lstrip()
    if not start:
        return
    if start.startswith("["):
        with _open_text(path) as file:
            for number, value in enumerate(list_items(file, str(path)), start=1):
                yield _row(f"{path}:{number}", value)
        return
    with _open_text(path) as file:
        first_line = next((line for line in file if line.strip()), "")
        is_lines = _is_object(first_line) and any(line.strip() for line in file)
    if is_lines:
        yield from _jsonl(path)
        return
    with _open_text(path) as file:  # an object is read whole: what is large is a list or JSON lines
        try:
            value = json.load(file)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path} is not JSON: {one_line(error)}; JSON lines are named .jsonl") from error
    for where, row in _rows_of_object(value):
        yield _row(f"{path}:{where}", row)


def _rows_of_object(value: Any) -> Iterator[tuple[str, Any]]:
    """{"data": [row, …]}, {"key": row, …}, or one row."""
    wrapper = next((key for key in WRAPPERS if isinstance(value, dict) and isinstance(value.get(key), list)), None)
    if wrapper is not None:
        yield from ((str(number), row) for number, row in enumerate(value[wrapper], start=1))
    elif isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
        yield from ((str(number), row) for number, row in enumerate(value.values(), start=1))
    else:
        yield "1", value


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _row(where: str, value: Any) -> SourceRow | QuarantinedRow:
    if isinstance(value, dict):
        return SourceRow(where, value)
    return QuarantinedRow(where, "not_an_object", f"a {type(value).__name__}, where a row is an object")


def _not_utf8(where: str, error: UnicodeDecodeError) -> QuarantinedRow:
    return QuarantinedRow(where, "not_utf8", f"byte 0x{error.object[error.start]:02x} at {error.start}")


def one_line(error: BaseException) -> str:
    """An error's message as the tail of ours."""
    return " ".join(str(error).split())[:300] or type(error).__name__
