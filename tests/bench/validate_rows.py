"""Benchmark of the gate: time and peak memory of judging a dataset of many rows.

python -m tests.bench.validate_rows [--rows 1000000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

NUM_DISTINCT = 5000
GROUP_ROWS = 25_000


def write_dataset(folder: Path, num_rows: int) -> None:
    """Write rows of about 30 tokens; ids and prompts are distinct, numbers repeat every 5,000 rows."""
    from tests.validations.tables import BOS, made_rows, to_table, write_known

    (folder / "data").mkdir(parents=True)
    write_known(folder)
    block = to_table(made_rows(NUM_DISTINCT))
    with pq.ParquetWriter(folder / "data" / "train.parquet", block.schema, compression="zstd") as writer:
        waiting = []
        for start in range(0, num_rows, NUM_DISTINCT):
            numbers = pa.array(range(start, start + NUM_DISTINCT)).cast(pa.string())
            table = block
            for name in ("theta_prompt", "teacher_prompt"):
                # The number before the question makes each prompt distinct.
                prompt = pc.replace_substring(block[name], f"{BOS}<|user|>", "")
                column = pc.binary_join_element_wise(f"{BOS}<|user|>[", numbers, "] ", prompt, "")
                table = table.set_column(table.schema.get_field_index(name), name, column)
            table = table.set_column(table.schema.get_field_index("id"), "id", numbers)
            waiting.append(table)
            if len(waiting) * NUM_DISTINCT >= GROUP_ROWS:
                writer.write_table(pa.concat_tables(waiting), row_group_size=GROUP_ROWS)
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=GROUP_ROWS)


def main() -> None:
    """Write the dataset in another process, so that this one's peak memory is that of judging it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    folder = (args.folder or Path(tempfile.mkdtemp())) / f"rows-{args.rows}"
    if not folder.exists():
        code = f"from tests.bench.validate_rows import *; write_dataset(Path({str(folder)!r}), {args.rows})"
        subprocess.run([sys.executable, "-c", code], check=True)
    start = time.monotonic()
    from tasks.publish.dataset import open_dataset
    from tasks.publish.judge import judge_again

    dataset = open_dataset(folder)
    verdict = judge_again(dataset)
    took_s = time.monotonic() - start
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    metrics = verdict.metrics
    num_bytes = sum(path.stat().st_size for path in dataset.files)
    print(f"{num_bytes >> 20} MB, {metrics['num_rows']} rows, {metrics['num_tokens']} tokens")
    print(f"passed {verdict.passed}, warnings {list(verdict.warnings)}, {metrics['num_graded']} answers graded")
    print(f"{took_s:.1f} s with imports, peak memory {peak_mb} MB")


if __name__ == "__main__":
    main()
