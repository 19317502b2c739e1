"""Streaming readers of JSON, JSON lines, CSV, TSV, Parquet and text files.

A broken line (not UTF-8, not JSON, not an object, not as wide as the header) is quarantined with its location and does
not stop the read. `datasets` would stop at the first one, guess types from text ("007" becomes 7) and, for Parquet,
take 11.6 s where pyarrow takes 0.4 s (200,000 rows), so it reads the Hub only (`tasks.source.source`). Files that
cannot be decoded line by line use `surrogateescape`: the row's own UTF-8 check (`tasks.source.rows`) finds the byte.
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
    """A raw row of the source."""

    location: str  # file:line, or file:row number counted from 1
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row that was set aside, with the reason it is counted under."""

    row: str  # its location: file:line, or file:row number
    reason: str  # snake_case
    detail: str
    id: str | None = None  # the row's id, if its fields could be read


Rows = Iterator[SourceRow | QuarantinedRow]


def format_of(path: Path) -> str | None:
    """Return the format that a file's suffix (before .gz) stands for, None if unknown."""
    return FORMATS.get(Path(path.name.lower().removesuffix(".gz")).suffix)


def read_rows(path: Path) -> Rows:
    """Yield the rows of a file of a known format. Raises SourceError if the file as a whole cannot be read."""
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


def _lines(path: Path) -> Iterator[tuple[str, str] | QuarantinedRow]:
    """Yield the location and text of every line that is not blank."""
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            data = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not data.strip():
                continue
            location = f"{path}:{number}"
            try:
                yield location, data.rstrip(b"\r\n").decode()
            except UnicodeDecodeError as error:
                yield _not_utf8(location, error)


def _jsonl(path: Path) -> Rows:
    for line in _lines(path):
        if isinstance(line, QuarantinedRow):
            yield line
            continue
        location, text = line
        try:
            yield _row(location, json.loads(text))
        except (ValueError, RecursionError) as error:
            yield QuarantinedRow(location, "not_json", one_line(error))


def _txt(path: Path) -> Rows:
    for line in _lines(path):
        yield line if isinstance(line, QuarantinedRow) else SourceRow(line[0], {"text": line[1]})


def _csv(path: Path) -> Rows:
    """Yield rows of strings, without guessing types."""
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
            location = f"{path}:{first_line}"
            try:
                values = next(reader, None)
            except csv.Error as error:
                yield QuarantinedRow(location, "not_csv", f"lines {first_line} to {reader.line_num}: {error}")
                continue
            if values is None:
                return
            if len(values) == len(header):
                yield SourceRow(location, dict(zip(header, values, strict=True)))
            elif values:  # skip an empty line
                detail = f"{len(values)} values for the header's {len(header)} columns"
                yield QuarantinedRow(location, "not_csv", detail)


def _parquet(path: Path) -> Rows:
    is_gzipped = path.suffix.lower() == ".gz"
    with tempfile.TemporaryFile() as unpacked, _open(path) as file:
        if is_gzipped:  # Parquet is read from its end: unpack to disk, not to memory
            shutil.copyfileobj(file, unpacked)
            unpacked.seek(0)
        # These settings stream a column; the default reads each column of a row group whole (102 MB for 100 MB).
        table = pq.ParquetFile(unpacked if is_gzipped else file, buffer_size=1 << 20, pre_buffer=False)
        rows = (row for batch in table.iter_batches(batch_size=256) for row in _batch_rows(batch))
        for number, row in enumerate(rows, start=1):
            location = f"{path}:{number}"
            yield _not_utf8(location, row) if isinstance(row, UnicodeDecodeError) else SourceRow(location, row)


def _batch_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """Yield the rows of a batch; for a row whose text is not UTF-8, which Parquet does not check, the error."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for i in range(batch.num_rows):
            try:
                yield batch.slice(i, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield error


def _json(path: Path) -> Rows:
    """Read a list of rows, an object that holds them, or JSON lines in a file named .json."""
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
    with _open_text(path) as file:  # an object is read whole: large files are lists or JSON lines
        try:
            value = json.load(file)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path} is not JSON: {one_line(error)}; JSON lines are named .jsonl") from error
    for number, row in enumerate(_rows_of_object(value), start=1):
        yield _row(f"{path}:{number}", row)


def _rows_of_object(value: Any) -> list[Any]:
    """Return the rows of {"data": [row, …]} or {"key": row, …}, else the value itself as the only row."""
    if isinstance(value, dict):
        for key in WRAPPERS:
            if isinstance(value.get(key), list):
                return cast(list[Any], value[key])
        if value and all(isinstance(row, dict) for row in value.values()):
            return list(value.values())
    return [value]


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _row(location: str, value: Any) -> SourceRow | QuarantinedRow:
    if isinstance(value, dict):
        return SourceRow(location, value)
    return QuarantinedRow(location, "not_an_object", f"a {type(value).__name__}, where a row is an object")


def _not_utf8(location: str, error: UnicodeDecodeError) -> QuarantinedRow:
    return QuarantinedRow(location, "not_utf8", f"byte 0x{error.object[error.start]:02x} at {error.start}")


def one_line(error: BaseException) -> str:
    """Return an error's message as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
