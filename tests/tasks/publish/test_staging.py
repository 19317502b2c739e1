"""Tests of staging: the shards' rows in their order, in files and row groups of a limited size."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sampling.errors import ConfigurationError
from tasks.publish.staging import stage
from tasks.source.rows import QuarantinedRow
from tasks.worker.shard import read_table
from tests.tasks.runs import make_config, make_row, make_run, sample_all

IDS = [make_row(i).id for i in range(10)]


def test_shards_become_files_of_row_groups(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    folder, plan = make_run(config, [make_row(i) for i in range(10)])
    shards = sample_all(folder, config, plan)
    row_bytes = read_table(folder.shard(0)).nbytes / 4
    staged = stage(folder, plan, shards, group_bytes=round(1.9 * row_bytes), file_bytes=round(5.5 * row_bytes))
    assert len(staged.files) > 1
    total = len(staged.files)
    assert [file.path for file in staged.files] == [f"data/train-{i:05d}-of-{total:05d}.parquet" for i in range(total)]
    paths = [folder.staged / file.path for file in staged.files]
    assert sorted((folder.staged / "data").iterdir()) == paths
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert [row["id"] for row in rows] == IDS
    metadata = [pq.read_metadata(path) for path in paths]
    assert max(file.row_group(i).num_rows for file in metadata for i in range(file.num_row_groups)) <= 3
    assert metadata[0].row_group(0).column(0).compression == "ZSTD"
    assert [file.num_rows for file in staged.files] == [file.num_rows for file in metadata]
    assert staged.totals == {"num_tokens": 15.0}  # an attempt a shard
    assert not (folder.staged / "quarantine.jsonl").exists()
    # What a killed staging left is replaced.
    (folder.staged / "data" / "train-00007.parquet").write_bytes(b"PAR1")
    assert stage(folder, plan, shards).num_rows == 10
    assert len(list((folder.staged / "data").iterdir())) == 1


def test_the_quarantine_goes_with_the_data(tmp_path: Path) -> None:
    config = make_config(tmp_path, sampling={"n": 2})
    bad = QuarantinedRow("rows.jsonl:11", "not_json", "Expecting value")
    folder, plan = make_run(config, [*(make_row(i) for i in range(10)), bad])
    shards = sample_all(folder, config, plan, failing=frozenset([IDS[5]]))
    staged = stage(folder, plan, shards)
    assert staged.quarantine == {"not_json": 1, "prompt_too_long": 2}
    assert staged.num_rows == 18
    lines = [json.loads(line) for line in (folder.staged / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["reason"], line.get("sample_idx")) for line in lines] == [
        ("not_json", None),
        ("prompt_too_long", 0),
        ("prompt_too_long", 1),
    ]


def test_a_shard_without_rows_is_published_but_a_run_without_rows_is_not(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    folder, plan = make_run(config, [make_row(i) for i in range(10)])
    staged = stage(folder, plan, sample_all(folder, config, plan, failing=frozenset(IDS[:4])))
    assert staged.num_rows == 6
    for i in range(plan.num_shards):
        for part in folder.shard(i).parts.iterdir():
            part.unlink()
    with pytest.raises(ConfigurationError, match=r"no row could be sampled \(prompt_too_long 10\)"):
        stage(folder, plan, sample_all(folder, config, plan, failing=frozenset(IDS)))
