"""The plan of a run: every row to sample, cut into shards."""

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

from sampling.errors import SourceError
from tasks.run.columns import source_columns, unify_shards, write_table
from tasks.run.folder import RunFolder
from tasks.source.rows import PreparedRow, QuarantinedRow, SourceReport
from tasks.store.durable import read_json, sync, write_json

# What the gate holds prompts and completions against, whatever the source calls it.
EXAMPLE = ("question", "answer", "solution", "final_answer")
ROW_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("theta_prompt", pa.string()),
        pa.field("teacher_prompt", pa.string()),
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        pa.field("example", pa.struct([(name, pa.string()) for name in EXAMPLE])),
    ]
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be sampled."""

    num_rows: int
    num_shards: int
    adapter: str
    columns: list[str]
    prompts: dict[str, Any]  # resolved: both given
    files: list[str]
    quarantine: dict[str, int]  # rows that could not be planned, by reason


def read_plan(folder: RunFolder) -> Plan | None:
    """The plan of a run, or None when planning did not end."""
    values = read_json(folder.plan)
    return None if values is None else Plan(**values)


def write_plan(
    folder: RunFolder, report: SourceReport, rows: Iterator[PreparedRow | QuarantinedRow], rows_per_shard: int
) -> Plan:
    """Plan every row, in the source's order, one shard in memory at a time.

    Raises SourceError when no row is left.
    """
    shutil.rmtree(folder.work / "shards", ignore_errors=True)  # of a planning that was interrupted
    counts: Counter[str] = Counter()
    paths: list[Path] = []
    num_rows = 0
    with open(folder.quarantine, "w", encoding="utf-8") as quarantine:
        good = _without_quarantined(rows, quarantine, counts)
        while batch := list(islice(good, rows_per_shard)):
            shard = folder.shard(len(paths))
            shard.parts.mkdir(parents=True)
            write_table(shard.rows, _to_table(batch))
            paths.append(shard.rows)
            num_rows += len(batch)
    if not num_rows:
        folder.upload(folder.quarantine)
        raise SourceError(
            f"no row can be sampled: all {counts.total()} are quarantined ({_counted(counts)});"
            f" {folder.address(folder.quarantine)} says why, row by row"
        )
    unify_shards(paths)
    sync(folder.quarantine)
    sync(folder.work / "shards")
    plan = Plan(
        num_rows=num_rows,
        num_shards=len(paths),
        adapter=report.adapter,
        columns=list(report.columns),
        prompts=report.prompts.model_dump(mode="json"),
        files=list(report.files),
        quarantine=dict(counts),
    )
    write_json(folder.plan, asdict(plan))
    return plan


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {num}" for reason, num in counts.most_common())


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
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in ROW_SCHEMA.names}
    columns["example"] = [{name: getattr(example, name) for name in EXAMPLE} for example in columns["example"]]
    own = pa.table(columns, schema=ROW_SCHEMA)
    source = source_columns([row.fields for row in rows])
    return pa.Table.from_arrays([*own.columns, *source.columns], schema=pa.schema([*own.schema, *source.schema]))
