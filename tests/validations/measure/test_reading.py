"""Parquet batches of bounded size, from row groups of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sampling.errors import SourceError
from sampling.record import RECORD_SCHEMA
from tests.validations.tables import made_rows, to_table, written
from validations.measure.reading import BATCH_BYTES, PROMPT_COLUMNS, read_batches

TABLE = to_table(made_rows(30))


def ids(batches: list[pa.Table]) -> list[str]:
    return [row for batch in batches for row in batch["id"].to_pylist()]


@pytest.mark.parametrize("row_group_size", [1, 7, 30])
def test_every_row_once_in_its_order(tmp_path: Path, row_group_size: int) -> None:
    paths = written(tmp_path, TABLE.slice(0, 11), TABLE.slice(11, 0), TABLE.slice(11), row_group_size=row_group_size)
    for batch_bytes in (1, 20_000, 1 << 30):
        batches = list(read_batches(paths, batch_bytes))
        assert ids(batches) == TABLE["id"].to_pylist()
        assert all(len(batch) for batch in batches)
        assert len(batches) == {1: 30, 20_000: len(batches), 1 << 30: 2}[batch_bytes]  # a table has rows of one file


def test_a_batch_is_about_as_large_as_asked(tmp_path: Path) -> None:
    paths = written(tmp_path, pa.concat_tables([TABLE] * 20))
    (whole,) = read_batches(paths)
    batches = list(read_batches(paths, whole.nbytes // 6))
    assert 6 <= len(batches) <= 12
    assert max(batch.nbytes for batch in batches) <= whole.nbytes // 6
    assert len(list(read_batches(paths, 1))) == 600
    assert len(list(read_batches(paths))) == 1


def test_only_what_is_judged_is_read(tmp_path: Path) -> None:
    extra = TABLE.append_column("junk", pa.array(["x"] * 30)).append_column("id.junk", pa.array(["x"] * 30))
    (batch,) = read_batches(written(tmp_path, extra))
    assert {*RECORD_SCHEMA.names, *PROMPT_COLUMNS} <= set(batch.column_names)
    assert "junk" not in batch.column_names
    (batch,) = read_batches(written(tmp_path, TABLE.drop_columns(["example", "messages"])))
    assert set(batch.column_names) == {*RECORD_SCHEMA.names, "theta_prompt", "teacher_prompt"}


TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
TEXTS = pa.struct([("question", pa.string()), ("more", pa.int64())])


@pytest.mark.parametrize(
    ("name", "kind", "value", "is_read"),
    [
        ("theta_prompt", pa.large_string(), "a", True),
        ("theta_prompt", pa.int64(), 3, False),
        ("teacher_prompt", pa.list_(pa.int64()), [3], False),
        ("teacher_prompt", pa.binary(), b"\xff", False),
        ("example", TEXTS, {"question": "a", "more": 3}, True),
        ("example", pa.struct([("question", pa.null())]), {"question": None}, True),
        ("example", pa.struct([("question", pa.int64())]), {"question": 3}, False),
        ("example", pa.string(), "a", False),
        ("example", pa.list_(TEXTS), [], False),
        ("messages", pa.large_list(TURN), [], True),
        ("messages", pa.list_(pa.string()), ["a"], False),
        ("messages", pa.list_(pa.struct([("from", pa.string())])), [], False),
        ("messages", pa.list_(pa.struct([("content", pa.list_(pa.string()))])), [], False),
        ("messages", TURN, {}, False),
    ],
)
def test_a_foreign_column_of_that_name_is_no_prompt(
    tmp_path: Path, name: str, kind: pa.DataType, value: Any, is_read: bool
) -> None:
    index = TABLE.schema.get_field_index(name)
    table = TABLE.set_column(index, pa.field(name, kind), pa.array([value] * 30, kind))
    (batch,) = read_batches(written(tmp_path, table))
    assert (name in batch.column_names) == is_read


def test_a_column_that_is_there_twice_is_no_prompt(tmp_path: Path) -> None:
    (batch,) = read_batches(written(tmp_path, TABLE.append_column("theta_prompt", TABLE["theta_prompt"])))
    assert "theta_prompt" not in batch.column_names


def test_no_files() -> None:
    assert list(read_batches([])) == []


def repeated(column: str, value: Any, num_rows: int) -> pa.Table:
    """Rows with one value in a column, which Parquet holds once."""
    table = pa.concat_tables([TABLE.slice(0, 1)] * num_rows)
    kind = table.schema.field(column).type
    index = pa.array([0] * num_rows, pa.int32())
    return table.set_column(table.schema.get_field_index(column), column, pa.array([value], kind).take(index))


@pytest.mark.slow
@pytest.mark.parametrize("column", ["theta_prompt", "completion", "id"])
def test_a_value_that_many_rows_share_is_decoded_a_few_rows_at_a_time(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(repeated(column, "x" * (8 << 20), 64), path, compression="zstd", dictionary_pagesize_limit=1 << 30)
    assert path.stat().st_size < 100_000
    sizes = [(len(batch), batch.nbytes) for batch in read_batches([path])]
    assert sum(num for num, _ in sizes) == 64
    assert max(num_bytes for _, num_bytes in sizes) <= BATCH_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["token_ids", "alpha", "mode"])
def test_a_row_beyond_the_bounds_is_refused(tmp_path: Path, name: str) -> None:
    table = TABLE.slice(0, 3)
    kind = table.schema.field(name).type
    value = table[name].combine_chunks().flatten().slice(0, 1).take(pa.array(np.zeros(70_000_000, np.int8)))
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 70_000_000, 70_000_000], pa.int32()), value).cast(kind)
    path = tmp_path / "a.parquet"
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, lists), path, compression="zstd")
    with pytest.raises(SourceError, match=r"row 2 cannot be decoded in bounds\.batch_bytes \(134217728\)"):
        list(read_batches([path]))


def test_a_broken_page_is_an_error_of_the_file(tmp_path: Path) -> None:
    (path,) = written(tmp_path, TABLE)
    data = bytearray(path.read_bytes())
    data[200:2000] = bytes(1800)
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"\S"):
        list(read_batches([path]))
