"""The staging of a dataset: its files, written before they are judged."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sampling.errors import ConfigurationError
from tasks.run.columns import ENCODING
from tasks.run.dataset_metadata import FACTS, TOKENIZER
from tasks.run.folder import RunFolder
from tasks.run.parts import Totals, sum_totals
from tasks.run.plan import Plan
from tasks.store.durable import sha256_of, sync
from tasks.worker.shard import ShardSummary, read_failures, read_table

# Bytes in memory. Readers stream, and the Hub's viewer shows, row groups of about 100 MB; a file of 1 GiB compresses to
# 300-500 MB, as the Hub recommends.
GROUP_BYTES, FILE_BYTES = 100 << 20, 1 << 30
QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of the dataset."""

    path: str  # relative to the dataset's folder
    num_rows: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Staged:
    """A staged dataset."""

    files: list[DataFile]
    num_rows: int  # completions
    quarantine: dict[str, int]  # by reason: rows that could not be planned, completions that could not be sampled
    totals: Totals  # of the engine, over every attempt at every shard
    num_set_aside: int  # damaged parts, sampled again


def stage(
    folder: RunFolder,
    plan: Plan,
    shards: list[ShardSummary],
    group_bytes: int = GROUP_BYTES,
    file_bytes: int = FILE_BYTES,
) -> Staged:
    """Write the shards' completions as `data/train-….parquet`, in their order, with the quarantine beside them.

    Raises ConfigurationError when every row is quarantined.
    """
    quarantine = Counter(plan.quarantine)
    for shard in shards:
        quarantine.update(shard.failed)
    if not any(shard.num_rows for shard in shards):
        counted = ", ".join(f"{reason} {num}" for reason, num in quarantine.most_common())
        raise ConfigurationError(f"nothing to publish: no row could be sampled ({counted})")
    shutil.rmtree(folder.staged, ignore_errors=True)  # of a staging that was interrupted
    data = folder.staged / "data"
    data.mkdir(parents=True)
    tables = (read_table(folder.shard(i)) for i in range(plan.num_shards))
    paths = _write_files(data, _regroup(tables, group_bytes), file_bytes)
    if quarantine:
        _write_quarantine(folder, plan)
    for name in (FACTS, TOKENIZER):
        if (folder.work / name).exists():
            shutil.copyfile(folder.work / name, folder.staged / name)
            sync(folder.staged / name)
    return Staged(
        files=[_data_file(path, folder.staged) for path in paths],
        num_rows=sum(shard.num_rows for shard in shards),
        quarantine=dict(quarantine),
        totals=sum_totals(shard.totals for shard in shards),
        num_set_aside=sum(shard.num_set_aside for shard in shards),
    )


def _data_file(path: Path, root: Path) -> DataFile:
    num_rows = pq.read_metadata(path).num_rows
    return DataFile(str(path.relative_to(root)), num_rows, path.stat().st_size, sha256_of(path))


def _regroup(tables: Iterator[pa.Table], group_bytes: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of about `group_bytes` each."""
    waiting: list[pa.Table] = []
    waiting_bytes = 0
    for table in tables:
        rows_per_slice = max(1, len(table) * group_bytes // max(1, table.nbytes))
        for start in range(0, len(table), rows_per_slice):
            waiting.append(table.slice(start, rows_per_slice))
            waiting_bytes += waiting[-1].nbytes
            if waiting_bytes >= group_bytes:
                yield pa.concat_tables(waiting)
                waiting, waiting_bytes = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def _write_files(data: Path, groups: Iterator[pa.Table], file_bytes: int) -> list[Path]:
    """Write each table as a row group, into files of about `file_bytes` in memory."""
    temporary: list[Path] = []
    writer: pq.ParquetWriter | None = None
    written = 0
    for group in groups:
        if writer is None or written >= file_bytes:
            if writer is not None:
                writer.close()
            temporary.append(data / f"train-{len(temporary):05d}.parquet")
            writer = pq.ParquetWriter(
                temporary[-1],
                group.schema,
                **ENCODING,
                write_page_index=True,
                write_page_checksum=True,
                use_content_defined_chunking=True,
            )
            written = 0
        writer.write_table(group, row_group_size=len(group))
        written += group.nbytes
    assert writer is not None
    writer.close()
    num = len(temporary)
    return [path.rename(data / f"train-{i:05d}-of-{num:05d}.parquet") for i, path in enumerate(temporary)]


def _write_quarantine(folder: RunFolder, plan: Plan) -> None:
    """Write one JSON line for each row or completion that is not in the dataset."""
    shutil.copyfile(folder.quarantine, folder.staged / QUARANTINE)
    with open(folder.staged / QUARANTINE, "a", encoding="utf-8") as file:
        for i in range(plan.num_shards):
            failures = read_failures(folder.shard(i))
            file.writelines(json.dumps(asdict(failure), sort_keys=True) + "\n" for failure in failures)
    sync(folder.staged / QUARANTINE)
