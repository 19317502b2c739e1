"""The plan of a run: the rows to sample, with their prompts' token ids, cut into shards."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from sampling.errors import OutputError, SourceError
from tasks.run.columns import source_columns, unify_shards, write_table
from tasks.run.folder import RunFolder
from tasks.source.rows import PreparedRow, QuarantinedRow, SourceReport
from tasks.source.source_row import value_bytes
from tasks.store.durable import read_as, sync, write_json

FORMAT = 2  # of rows.parquet and plan.json; since 2 a planned row holds its prompts' token ids
SHARD_BYTES = 64 << 20  # of rows and prompts; planning takes six times as much memory: 429 MB measured
# Fields of the column `example`, which quality checks compare prompts and completions with.
EXAMPLE = ("question", "answer", "solution", "final_answer")
ROW_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("theta_prompt", pa.string()),
        pa.field("teacher_prompt", pa.string()),
        pa.field("theta_prompt_ids", pa.list_(pa.int32())),
        pa.field("teacher_prompt_ids", pa.list_(pa.int32())),
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        pa.field("example", pa.struct([(name, pa.string()) for name in EXAMPLE])),
    ]
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The content of plan.json."""

    num_rows: int
    num_shards: int
    adapter: str
    columns: list[str]
    prompts: dict[str, Any]  # resolved: both given
    files: list[str]
    quarantine: dict[str, int]  # rows that could not be planned, by reason
    format: int = 1


def read_plan(folder: RunFolder) -> Plan | None:
    """Return the plan of a run, None when planning is not finished.

    Raises OutputError when the plan has the format of another version of this package.
    """
    if (plan := read_as(Plan, folder.plan)) is None:
        return None
    if plan.format != FORMAT:
        raise OutputError(
            f"{folder.address(folder.work)} was planned in format {plan.format}, this version reads format {FORMAT};"
            " finish that run with the version that began it, or remove the folder to start over"
        )
    return plan


def write_plan(
    folder: RunFolder,
    report: SourceReport,
    rows: Iterator[PreparedRow | QuarantinedRow],
    rows_per_shard: int,
) -> Plan:
    """Write every row with its prompts' token ids, in the source's order, one shard in memory at a time.

    A shard of large rows has fewer of them.

    Raises SourceError when all rows are quarantined.
    """
    shutil.rmtree(folder.shards, ignore_errors=True)  # of a planning that was interrupted
    counts: Counter[str] = Counter()
    paths: list[Path] = []
    num_rows = 0
    with open(folder.quarantine, "w", encoding="utf-8") as quarantine:
        good = _without_quarantined(rows, quarantine, counts)
        while batch := list(_take(good, rows_per_shard)):
            shard = folder.shard(len(paths))
            shard.parts.mkdir(parents=True)
            write_table(shard.rows, _to_table(batch))
            paths.append(shard.rows)
            num_rows += len(batch)
    if not num_rows:
        folder.upload(folder.quarantine)
        reasons = ", ".join(f"{reason} {num}" for reason, num in counts.most_common())
        raise SourceError(
            f"no row can be sampled: all {counts.total()} are quarantined ({reasons});"
            f" {folder.address(folder.quarantine)} says why, row by row"
        )
    unify_shards(paths)
    sync(folder.quarantine)
    sync(folder.shards)
    plan = Plan(
        num_rows=num_rows,
        num_shards=len(paths),
        adapter=report.adapter,
        columns=list(report.columns),
        prompts=report.prompts.model_dump(mode="json"),
        files=list(report.files),
        quarantine=dict(counts),
        format=FORMAT,
    )
    write_json(folder.plan, asdict(plan))
    return plan


def _take(rows: Iterator[PreparedRow], most: int) -> Iterator[PreparedRow]:
    """Yield the next rows, `most` of them, or fewer that hold SHARD_BYTES: they are in memory together."""
    num_bytes = 0
    for row in islice(rows, most):
        yield row
        num_bytes += value_bytes(row.fields) + len(row.theta_prompt) + len(row.teacher_prompt)
        if num_bytes > SHARD_BYTES:
            return


def _without_quarantined(
    rows: Iterator[PreparedRow | QuarantinedRow], quarantine: TextIO, counts: Counter[str]
) -> Iterator[PreparedRow]:
    for row in rows:
        if isinstance(row, PreparedRow):
            yield row
            continue
        counts[row.reason] += 1
        quarantine.write(json.dumps(asdict(row), sort_keys=True) + "\n")


def _to_table(rows: list[PreparedRow]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "id": [row.id for row in rows],
        "theta_prompt": [row.theta_prompt for row in rows],
        "teacher_prompt": [row.teacher_prompt for row in rows],
        "theta_prompt_ids": [row.theta_prompt_ids for row in rows],
        "teacher_prompt_ids": [row.teacher_prompt_ids for row in rows],
        "messages": [row.messages for row in rows],
        "example": [{name: getattr(row.example, name) for name in EXAMPLE} for row in rows],
    }
    own = pa.table(columns, schema=ROW_SCHEMA)
    source = source_columns([row.fields for row in rows])
    return pa.Table.from_arrays([*own.columns, *source.columns], schema=pa.schema([*own.schema, *source.schema]))
