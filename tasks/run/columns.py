"""Arrow columns of the source's own fields, with one type in all shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sampling.record import RECORD_SCHEMA
from tasks.store.durable import write_bytes

PREFIX = "source:"  # of a source's column in a planned shard, so that it cannot clash with our own columns
JSON = {b"encoding": b"json"}  # metadata of a column whose values have no common type
# Options of Parquet files. No dictionaries: floats that are all different become larger and take four times as long
# (1,000 rows of 300 tokens: 20.7 MB in 270 ms; without 13.7 MB in 65 ms). zstd compresses repeated text.
ENCODING: dict[str, Any] = {"compression": "zstd", "use_dictionary": False}
OWN_COLUMNS = (*RECORD_SCHEMA.names, "theta_prompt", "teacher_prompt", "messages", "example")
MAX_DEPTH = 40  # of lists and objects in one field; Parquet's readers stop at 100 levels, and a list takes two
MAX_FIELDS = 1000  # of objects inside all fields: beyond, keys are data (a count for each word), and no columns
NO_COMMON_TYPE = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeEncodeError)


def source_columns(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return the fields of rows as columns: typed, or JSON text where the values of a column have no common type."""
    names = dict.fromkeys(name for row in rows for name in row)
    num_left, columns = MAX_FIELDS, []
    for name in names:
        values = [row.get(name) for row in rows]
        num_fields = _count_fields(values, num_left)
        columns.append(_to_column(f"{PREFIX}{name}", values, is_typed=num_fields <= num_left))
        num_left -= num_fields if num_fields <= num_left else 0
    return pa.Table.from_arrays([array for _, array in columns], schema=pa.schema([field for field, _ in columns]))


def answered(messages: Sequence[dict[str, str]], completion: str) -> list[dict[str, str]]:
    """Return a planned row's turns with the completion, behind what the chat template began the answer with."""
    *turns, last = messages
    if last["role"] != "assistant":
        return [*turns, last, {"role": "assistant", "content": completion}]
    return [*turns, {**last, "content": last["content"] + completion}]


def unify_shards(paths: Sequence[Path]) -> None:
    """Rewrite the planned shards whose source columns differ in type, so that all have one schema."""
    found = (pq.read_schema(path).remove_metadata() for path in paths)
    schemas = list({schema.serialize().to_pybytes(): schema for schema in found}.values())  # few, however many shards
    names = dict.fromkeys(name for schema in schemas for name in schema.names)
    unified = pa.schema(_merge([schema.field(name) for schema in schemas if name in schema.names]) for name in names)
    num_left = MAX_FIELDS
    for i, field in enumerate(unified):  # together they may have more objects' fields than each shard has
        num_fields = _num_fields(field.type)
        if num_fields > num_left:
            unified = unified.set(i, _json_field(field.name))
        else:
            num_left -= num_fields
    while (name := _rewrite(paths, unified)) is not None:
        # The types fit, but not the values: an integer above 2^53 is no float64. The whole column becomes JSON.
        unified = unified.set(unified.get_field_index(name), _json_field(name))


def published_names(columns: Iterable[str]) -> dict[str, str]:
    """Return the published name of each source column: its own, or `source_<name>` when that is taken."""
    columns = list(columns)
    taken = {*OWN_COLUMNS, *columns}
    published = {}
    for name in columns:
        free = name
        if name in OWN_COLUMNS:
            while free in taken:
                free = f"source_{free}"
            taken.add(free)
        published[name] = free
    return published


def _count_fields(values: list[Any], most: int) -> int:
    """Return how many fields a type for values would have inside of objects and lists, `most` + 1 if more."""
    found: dict[tuple[int, str | None], int] = {}  # where a field lies and its name (None: a list's), and its number
    pending = [(0, value) for value in values]
    while pending and len(found) <= most:
        place, value = pending.pop()
        if isinstance(value, dict):
            pending += [(found.setdefault((place, name), len(found) + 1), item) for name, item in value.items()]
        elif isinstance(value, list):
            inner = found.setdefault((place, None), len(found) + 1)
            pending += [(inner, item) for item in value if isinstance(item, dict | list)]
    return min(len(found), most + 1)


def _to_column(name: str, values: list[Any], is_typed: bool) -> tuple[pa.Field, pa.Array]:
    if is_typed:
        try:
            array = pa.array(values)
            if _is_storable(array.type):
                return pa.field(name, array.type), array
        except NO_COMMON_TYPE:
            pass
    return _json_field(name), _to_json(values)


def _is_storable(kind: pa.DataType, depth: int = MAX_DEPTH) -> bool:
    """Return whether Parquet holds a type: it has no empty struct, and readers refuse what nests too deep."""
    if not (children := [kind.field(i).type for i in range(kind.num_fields)]):
        return not pa.types.is_struct(kind)
    return depth > 0 and all(_is_storable(child, depth - 1) for child in children)


def _num_fields(kind: pa.DataType) -> int:
    return sum(1 + _num_fields(kind.field(i).type) for i in range(kind.num_fields))


def _json_field(name: str) -> pa.Field:
    return pa.field(name, pa.string(), metadata=JSON)


def _to_json(values: list[Any]) -> pa.Array:
    # ASCII: half of a surrogate pair has no UTF-8, but an escape sequence.
    return pa.array([None if value is None else json.dumps(value, default=str) for value in values], pa.string())


def _merge(fields: list[pa.Field]) -> pa.Field:
    if any(field.metadata for field in fields):
        return _json_field(fields[0].name)
    try:
        merged = pa.unify_schemas([pa.schema([field]) for field in fields], promote_options="permissive").field(0)
    except pa.ArrowTypeError:
        return _json_field(fields[0].name)
    # A column that is null everywhere becomes text, which most readers expect.
    return merged.with_type(pa.string()) if pa.types.is_null(merged.type) else merged


def _rewrite(paths: Sequence[Path], unified: pa.Schema) -> str | None:
    """Cast the files whose schema differs; return the name of a column whose values do not fit its unified type."""
    for path in paths:
        if pq.read_schema(path).remove_metadata().equals(unified, check_metadata=True):
            continue
        table = pq.read_table(path)
        arrays = []
        for field in unified:
            try:
                arrays.append(_cast(table, field))
            except pa.ArrowInvalid:
                return field.name
        write_table(path, pa.Table.from_arrays(arrays, schema=unified))
    return None


def _cast(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name not in table.column_names:
        return pa.nulls(len(table), field.type)
    column = table[field.name]
    if field.metadata and not table.schema.field(field.name).metadata:
        return _to_json(column.to_pylist())
    return column.cast(field.type)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file durably."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **ENCODING)
    write_bytes(path, memoryview(sink.getvalue()))
