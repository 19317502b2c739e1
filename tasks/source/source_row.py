"""A row of a source, as it was read or set aside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sampling.bounds import Bounds
from tasks.source.example import BadRowError

# What a value inside a list or an object counts for, beside its text: in Python it takes 8 (a small number) to 240
# (an object with one key) bytes, so a row takes less than eight times its counted size.
VALUE_BYTES = 64


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


def to_row(location: str, value: Any, bounds: Bounds) -> SourceRow | QuarantinedRow:
    """Return a decoded value as a row, set aside if it is no object or larger than `bounds`."""
    if not isinstance(value, dict):
        return QuarantinedRow(location, "not_an_object", f"a {type(value).__name__}, where a row is an object")
    most = sum(4 * len(field) if isinstance(field, str) else value_bytes(field) for field in value.values())
    if most <= min(bounds.cell_bytes, bounds.row_bytes):  # most rows: there is no need to count exactly
        return SourceRow(location, value)
    problem = oversize({column: value_bytes(field) for column, field in value.items()}, bounds)
    return QuarantinedRow(location, "too_large", problem) if problem else SourceRow(location, value)


def of_few_columns(rows: Rows, bounds: Bounds) -> Rows:
    """Yield rows, set aside from the first on that brings more columns than `bounds.columns` in all."""
    names: set[str] = set()
    for row in rows:
        if isinstance(row, SourceRow) and not names.issuperset(row.fields):
            if (count := len(names | row.fields.keys())) > bounds.columns:
                problem = f"with its own the source has {count} columns, above bounds.columns ({bounds.columns})"
                yield QuarantinedRow(row.location, "too_many_columns", problem)
                continue
            names.update(row.fields)
        yield row


def oversize(sizes: dict[str, int], bounds: Bounds) -> str | None:
    """Return what of a row is larger than `bounds`, None if nothing is; `sizes`: its columns' bytes."""
    for column, size in sizes.items():
        if size > bounds.cell_bytes:
            return f"{column!r:.100} holds {size} bytes, above bounds.cell_bytes ({bounds.cell_bytes})"
    if (total := sum(sizes.values())) > bounds.row_bytes:
        return f"its fields hold {total} bytes, above bounds.row_bytes ({bounds.row_bytes})"
    return None


def value_bytes(value: Any) -> int:
    """Return a value's size: its text in UTF-8, and VALUE_BYTES for each value of its lists and objects."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, bytes):
        return len(value)
    if not isinstance(value, dict | list | tuple):
        return 0
    total = 0
    pending = [value]
    while pending:  # no recursion: a row may nest deeper than Python's stack
        inner = pending.pop()
        total += VALUE_BYTES * len(inner)
        if isinstance(inner, dict):
            total += sum(value_bytes(key) for key in inner)
        for item in inner.values() if isinstance(inner, dict) else inner:
            if isinstance(item, dict | list | tuple):
                pending.append(item)
            elif isinstance(item, str | bytes):
                total += value_bytes(item)
    return total


def not_utf8(location: str, error: UnicodeDecodeError) -> QuarantinedRow:
    """Return the row whose text is not UTF-8."""
    return QuarantinedRow(location, "not_utf8", f"byte 0x{error.object[error.start]:02x} at {error.start}")


def content_of(fields: dict[str, Any]) -> bytes:
    """Return a row's content as bytes, independent of the order of columns and of null columns.

    Raises BadRowError for invalid text and for values that are neither JSON nor one of Parquet's plain types.
    """
    filled = {column: value for column, value in fields.items() if value is not None}
    try:
        text = json.dumps(filled, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
        return text.encode()
    except UnicodeEncodeError as error:
        character = ascii(error.object[error.start])
        raise BadRowError("not_utf8", f"its text holds {character}, which is no character") from error
    except RecursionError as error:
        raise BadRowError("too_deep", "it nests too many lists or objects") from error


def _plain(value: Any) -> dict[str, str]:
    """Convert a value that JSON lacks, identically in every process (an image's repr would hold its address)."""
    if isinstance(value, bytes | date | time | timedelta | Decimal | UUID):
        return {type(value).__name__: repr(value)}
    raise BadRowError("wrong_type", f"a field is a {type(value).__name__}, which has no plain text")


def one_line(error: BaseException) -> str:
    """Return an error's message as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
