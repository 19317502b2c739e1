"""The rows of a Parquet file, decoded from any of them on, and the memory that this takes."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sampling.processes.decoding import parquet_batches

SIZES = (5, 0, 1, 1, 1, 40, 3, 0)  # rows of each group
NUM_ROWS = sum(SIZES)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decoding") / "rows.parquet"
    numbers = iter(range(NUM_ROWS))
    schema = pa.schema([("number", pa.int64()), ("other", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        for size in SIZES:
            column = [next(numbers) for _ in range(size)]
            writer.write_table(pa.table([column, column], schema))
    return path


@pytest.mark.parametrize("num_rows", [1, 2, 7, 32, 1024])
def test_every_row_comes_once_and_in_order(path: Path, num_rows: int) -> None:
    with pq.ParquetFile(path) as file:
        for first in range(NUM_ROWS + 1):
            batches = list(parquet_batches(file, first, num_rows, ["number"]))
            rows = [number for batch in batches for number in batch["number"].to_pylist()]
            assert rows == list(range(first, NUM_ROWS))
            assert all(0 < batch.num_rows <= num_rows for batch in batches)
            assert all(batch.schema.names == ["number"] for batch in batches)


def test_what_was_decoded_is_not_kept(tmp_path: Path) -> None:
    """40 row groups of 1 MiB: pyarrow's own iteration over all of them holds 40 MiB at its end."""
    text = [os.urandom(512).hex() for _ in range(1024)]
    with pq.ParquetWriter(tmp_path / "rows.parquet", pa.schema([("text", pa.string())])) as writer:
        for _ in range(40):
            writer.write_table(pa.table({"text": text}))
    before = pa.total_allocated_bytes()
    most = 0
    with pq.ParquetFile(tmp_path / "rows.parquet", buffer_size=1 << 20) as file:
        for batch in parquet_batches(file, 0, 256):
            most = max(most, pa.total_allocated_bytes() - before - batch.nbytes)
    assert most < 8 << 20
