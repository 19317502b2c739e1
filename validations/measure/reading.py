"""Parquet reader that yields a dataset's rows as Arrow tables of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sampling.record import RECORD_SCHEMA

BATCH_BYTES = 48 << 20  # of Arrow memory; the Python objects of its texts take about as much again
# Optional: a dataset made elsewhere may lack them; columns of other types under these names are left out.
PROMPT_COLUMNS = ("theta_prompt", "teacher_prompt", "example", "messages")
EXAMPLE_FIELDS = ("question", "answer", "solution", "final_answer")


def read_batches(parquet_files: Sequence[Path], batch_bytes: int = BATCH_BYTES) -> Iterator[pa.Table]:
    """Yield the judged columns, file after file, about `batch_bytes` at a time and one row group at most."""
    for path in parquet_files:
        with pq.ParquetFile(path) as file:
            columns = [*RECORD_SCHEMA.names, *_prompt_columns(file.schema_arrow)]
            for group in range(file.num_row_groups):
                metadata = file.metadata.row_group(group)
                if not metadata.num_rows:
                    continue
                rows = max(1, metadata.num_rows * batch_bytes // max(batch_bytes, metadata.total_byte_size))
                for batch in file.iter_batches(rows, row_groups=[group], columns=columns):
                    yield pa.Table.from_batches([batch])


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
