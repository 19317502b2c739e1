"""Benchmark of time and memory for preparing, and optionally planning, a source of many rows.

    python -m tests.bench.source_rows [--rows 10000000] [--format jsonl | parquet] [--shard-rows 1000] [--folder DIR]

With `--shard-rows` the rows are planned into shards of that size; without it, they are only prepared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = 100_000  # rows per write
REPEAT_EVERY = 100  # one row in this many is a repeat
NUM_REPORTS = 10  # progress lines printed


def write_source(path: Path, num_rows: int) -> None:
    """Write rows of some 60 bytes."""
    writer: pq.ParquetWriter | None = None
    for start in range(0, num_rows, BLOCK):
        numbers = (i // 2 + 1 if i % REPEAT_EVERY == 0 else i for i in range(start, min(start + BLOCK, num_rows)))
        rows = [{"question": f"What is {i} and {i + 7}?", "answer": f"#### {2 * i + 7}"} for i in numbers]
        if path.suffix == ".parquet":
            table = pa.Table.from_pylist(rows)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
        else:
            with path.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
    if writer is not None:
        writer.close()


def main() -> None:
    """Write the source in a child process, so that this process's peak memory is of reading alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl")
    parser.add_argument("--shard-rows", type=int)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"rows-{args.rows}.{args.format}"
    if not source.exists():
        code = f"from tests.bench.source_rows import *; write_source(Path({str(source)!r}), {args.rows})"
        subprocess.run([sys.executable, "-c", code], check=True)
    print(f"{source}: {source.stat().st_size >> 20} MB", flush=True)

    from sampling.models.vocabulary import load_tokenizer
    from tasks.config import PipelineConfig
    from tasks.run.folder import RunFolder
    from tasks.run.plan import write_plan
    from tasks.source.rows import PreparedRow, QuarantinedRow, prepare_rows
    from tests.tasks.runs import make_config
    from tests.tiny import make_pair

    teacher, theta = make_pair(folder / "models")
    models = {"teacher": {"model": str(teacher)}, "theta": {"model": str(theta)}}
    config: PipelineConfig = make_config(folder / "out", source={"path": str(source)}, models=models)
    tokenizers = load_tokenizer(config.models.theta), load_tokenizer(config.models.teacher)

    def reported(rows: Iterator[PreparedRow | QuarantinedRow]) -> Iterator[PreparedRow | QuarantinedRow]:
        before = time.monotonic()
        every = max(1, args.rows // NUM_REPORTS)
        for number, row in enumerate(rows, start=1):
            yield row
            if number % every == 0:
                now = time.monotonic()
                print(f"{number} rows, {every / (now - before):.0f}/s, {_memory()}", flush=True)
                before = now

    print(f"loaded: {_memory()}", flush=True)
    start = time.monotonic()
    report, rows = prepare_rows(config.source, config.prompts, *tokenizers)
    print(f"fingerprint {report.fingerprint[:8]} in {time.monotonic() - start:.1f} s", flush=True)
    if args.shard_rows is None:
        num_repeats = sum(isinstance(row, PreparedRow) and "-" in row.id for row in reported(rows))
        print(f"{num_repeats} of them repeats; {time.monotonic() - start:.1f} s in all")
    else:
        run = RunFolder.of(config, {})
        run.work.mkdir(parents=True, exist_ok=True)
        plan = write_plan(run, report, reported(rows), args.shard_rows)
        print(f"{plan.num_rows} rows in {plan.num_shards} shards; {time.monotonic() - start:.1f} s in all, {_memory()}")


def _memory() -> str:
    """Return the resident memory and its peak, as text."""
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    now, peak = (int(status.split(f"{name}:")[1].split()[0]) >> 10 for name in ("VmRSS", "VmHWM"))
    return f"{now} MB held, {peak} MB at most"


if __name__ == "__main__":
    main()
