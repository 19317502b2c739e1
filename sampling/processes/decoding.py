"""The decoding of Parquet in a child process of bounded memory, as both ends of its pipe share it.

A small file can hold gigabytes: one value of a dictionary stands for any number of rows, a page unpacks to whatever it
says. None of that is known before it is decoded, and no setting of pyarrow bounds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

DECODED_ROWS = (1024, 32, 1)  # at once; fewer, by a new process, after rows that took too much memory
VARIABLES = {"ARROW_DEFAULT_MEMORY_POOL": "system"}  # mimalloc claims a gibibyte at once, which the limit forbids
END_S = 5.0


class StoppedError(Exception):
    """The process that decodes lacks memory, or died."""


def parquet_batches(
    file: pq.ParquetFile, first: int, num_rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows after the `first` ones, at most `num_rows` at once.

    pyarrow keeps what it has decoded of a row group to the end of a call, so each call decodes as few of them as hold
    `num_rows` rows.
    """
    groups: list[int] = []
    num_grouped = 0
    for i in range(file.num_row_groups):
        num_here = file.metadata.row_group(i).num_rows
        if not groups and num_here <= first:
            first -= num_here  # these rows need no decoding
            continue
        groups.append(i)
        num_grouped += num_here
        if num_grouped - first < num_rows and i + 1 < file.num_row_groups:
            continue
        for batch in file.iter_batches(num_rows, groups, columns, use_threads=False):
            skipped = min(first, batch.num_rows)
            first -= skipped
            if skipped < batch.num_rows:
                yield batch.slice(skipped)
        groups, num_grouped = [], 0
