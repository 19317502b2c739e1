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
NO_COMMON_TYPE = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeEncodeError)


def source_columns(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return the fields of rows as columns: typed, or JSON text where the values of a column have no common type."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [_to_column(f"{PREFIX}{name}", [row.get(name) for row in rows]) for name in names]
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


def _to_column(name: str, values: list[Any]) -> tuple[pa.Field, pa.Array]:
    try:
        array = pa.array(values)
        if not _is_storable(array.type):
            raise pa.ArrowNotImplementedError("Parquet has no empty struct")
    except NO_COMMON_TYPE:
        return _json_field(name), _to_json(values)
    return pa.field(name, array.type), array


def _is_storable(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_storable(field.type) for field in kind)
    return _is_storable(kind.value_type) if pa.types.is_list(kind) else True


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
