"""Streaming readers of JSON, JSON lines, CSV, TSV, Parquet, Arrow and text files.

A broken line (not UTF-8, not JSON, not an object, not as wide as the header, larger than the bounds) is quarantined
with its location and does not stop the read. `datasets` would stop at the first one, guess types from text ("007"
becomes 7) and, for Parquet, take 11.6 s where pyarrow takes 0.4 s (200,000 rows), so it reads the Hub only
(`tasks.source.source`). Files that cannot be decoded line by line use `surrogateescape`: the row's own UTF-8 check
(`tasks.source.rows`) finds the byte.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

from sampling.bounds import Bounds
from sampling.errors import SourceError
from tasks.source.columnar import read_columnar
from tasks.source.example import listed
from tasks.source.json_text import SMALL_CHARS, BadValue, JsonText, parse
from tasks.source.opening import BROKEN, OPENERS, lines, open_file
from tasks.source.source_row import QuarantinedRow, Rows, SourceRow, not_utf8, one_line, to_row

FIELD_BYTES = 16  # of a CSV record's list of fields, at least
FORMATS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "txt",
}
FORMAT_NAMES = f"{', '.join(FORMATS)}, each also with {', '.join(OPENERS)}"


def format_of(path: Path) -> str | None:
    """Return the format that a file's suffix (before .gz and the like) stands for, None if unknown."""
    name = path.name.lower()
    for suffix in OPENERS:
        name = name.removesuffix(suffix)
    return FORMATS.get(Path(name).suffix)


def read_rows(path: Path, bounds: Bounds) -> Rows:
    """Yield the rows of a file of a known format. Raises SourceError if the file as a whole cannot be read."""
    readers = {
        "json": _json,
        "jsonl": _jsonl,
        "csv": _csv,
        "parquet": read_columnar,
        "arrow": read_columnar,
        "txt": _txt,
    }
    file_format = format_of(path)
    assert file_format is not None
    try:
        yield from readers[file_format](path, bounds)
    except BROKEN as error:
        raise SourceError(f"{path} cannot be read as {file_format}: {one_line(error)}") from error


def _open_text(path: Path, bounds: Bounds) -> TextIO:
    return io.TextIOWrapper(open_file(path, bounds), encoding="utf-8-sig", errors="surrogateescape", newline="")


def _lines(path: Path, bounds: Bounds) -> Iterator[tuple[str, str] | QuarantinedRow]:
    """Yield the location and text of every line that is not blank."""
    with open_file(path, bounds) as file:
        for number, line in lines(file, bounds):
            location = f"{path}:{number}"
            if line is None:
                problem = f"the line is longer than bounds.line_bytes ({bounds.line_bytes})"
                yield QuarantinedRow(location, "too_large", problem)
                continue
            data = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not data.strip():
                continue
            try:
                yield location, data.rstrip(b"\r\n").decode()
            except UnicodeDecodeError as error:
                yield not_utf8(location, error)


def _txt(path: Path, bounds: Bounds) -> Rows:
    for line in _lines(path, bounds):
        yield line if isinstance(line, QuarantinedRow) else to_row(line[0], {"text": line[1]}, bounds)


def _jsonl(path: Path, bounds: Bounds) -> Rows:
    with _open_text(path, bounds) as file:
        start = file.read(4096).lstrip()
    if start.startswith("[") or start.partition("\n")[0].rstrip() == "{":  # a JSON list, or objects over many lines
        yield from _documents(path, bounds)
        return
    for line in _lines(path, bounds):
        yield line if isinstance(line, QuarantinedRow) else _json_line(*line, bounds)


def _json_line(location: str, text: str, bounds: Bounds) -> SourceRow | QuarantinedRow:
    try:
        value, end = parse(text.strip(), bounds)
    except BadValue as error:
        return QuarantinedRow(location, error.reason, str(error))
    except ValueError as error:
        return QuarantinedRow(location, "not_json", one_line(error))
    if end < len(text.strip()):
        return QuarantinedRow(location, "not_json", f"there is more behind the value's end, character {end}")
    return to_row(location, value, bounds)


def _json(path: Path, bounds: Bounds) -> Rows:
    """Read lists of rows, objects that hold one, or JSON lines in a file named .json."""
    yield from (_jsonl if _is_lines(path, bounds) else _documents)(path, bounds)


def _is_lines(path: Path, bounds: Bounds) -> bool:
    """Return whether the first line is an object, and not the only line."""
    with _open_text(path, bounds) as file:
        if not file.read(4096).lstrip().startswith("{"):
            return False
    with _open_text(path, bounds) as file:
        texts = (line.strip() for line in iter(partial(file.readline, bounds.line_bytes), ""))
        first = next(filter(None, texts), "")
        try:
            is_object = parse(first, bounds)[1] == len(first)
        except ValueError:
            return False
        return is_object and any(texts)


def _documents(path: Path, bounds: Bounds) -> Rows:
    with _open_text(path, bounds) as file:
        for number, value in enumerate(JsonText(file, str(path), bounds).rows(), start=1):
            location = f"{path}:{number}"
            if isinstance(value, BadValue):
                yield QuarantinedRow(location, value.reason, str(value))
            else:
                yield to_row(location, value, bounds)


class _RecordLines:
    """The lines of a CSV file, as many as one record may have."""

    def __init__(self, file: TextIO, delimiter: str, path: Path, bounds: Bounds) -> None:
        self._file, self._delimiter, self._path, self._bounds = file, delimiter, path, bounds
        self.number = 0  # of the last line
        self.begin()

    def begin(self) -> None:
        """Count the next line as the first of a record."""
        self.first = self.number + 1
        self._num_chars = self._num_fields = 0

    @property
    def place(self) -> str:
        """The lines of the record, in words."""
        return f"line {self.first}" if self.first == self.number else f"lines {self.first} to {self.number}"

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(self._bounds.line_bytes + 1):
            self.number += 1
            self._num_chars += len(line)
            if self._num_chars > min(SMALL_CHARS, self._bounds.line_bytes):  # before, there are few fields
                self._num_fields += line.count(self._delimiter)
                self._check("line_bytes", self._num_chars)
                self._check("row_bytes", self._num_fields * FIELD_BYTES)
            yield line

    def _check(self, key: str, size: int) -> None:
        if size > (bound := getattr(self._bounds, key)):
            raise SourceError(
                f"{self._path}: the record that begins in line {self.first} takes more than bounds.{key} "
                f"({bound}); is a quote in that line never closed?"
            )


def _csv(path: Path, bounds: Bounds) -> Rows:
    """Yield rows of strings, without guessing types.

    Broken quotes make where a record ends uncertain for all that follows, so the file is refused. Raises SourceError.
    """
    delimiter = "\t" if ".tsv" in path.name.lower() else ","
    csv.field_size_limit(bounds.line_bytes)  # Python's own limit, 131,072, is less than a long conversation
    header: list[str] | None = None
    with _open_text(path, bounds) as file:
        records = _RecordLines(file, delimiter, path, bounds)
        reader = csv.reader(records, delimiter=delimiter, strict=True)
        while True:
            records.begin()
            try:
                values = next(reader, None)
            except csv.Error as error:
                raise SourceError(
                    f"{path}, {records.place}: the quotes are not those of CSV: {error}; a "
                    'quote inside a quoted field is written twice (""), not \\", and each one is closed; write the '
                    "file anew, or convert it to .jsonl"
                ) from error
            if values is None:
                return
            if not values:  # an empty line
                continue
            if header is None:
                header = [name or f"column_{i}" for i, name in enumerate(values)]
                if len(set(header)) < len(header):
                    raise SourceError(f"{path}: the header names a column twice: {listed(header):.300}; rename one")
                continue
            location = f"{path}:{records.first}"
            if len(values) == len(header):
                yield to_row(location, dict(zip(header, values, strict=True)), bounds)
                continue
            detail = f"{len(values)} values for the header's {len(header)} columns"
            if records.number > records.first:
                detail = f"{records.place}: {detail}"
            yield QuarantinedRow(location, "not_csv", detail)
