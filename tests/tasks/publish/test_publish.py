"""Tests of publishing: all of it or nothing, the link last, and no row lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from sampling.errors import DualSamplingError, OutputError, RefusedError
from tasks.publish.publish import Run, publish_dataset, verify
from tasks.publish.staging import stage
from tasks.run.folder import RunFolder, ShardFolder
from tasks.run.lock import locked
from tasks.store.durable import read_json, sha256_of, write_json
from tasks.worker.shard import read_table
from tests.tasks.runs import make_config, make_row, make_run, sample, sample_all

IDS = [make_row(i).id for i in range(10)]


def prefect(test: Any) -> Any:
    """Mark a test that publishes, for which Prefect's server has to run."""
    return pytest.mark.slow(pytest.mark.usefixtures("prefect_server")(test))


def sampled(root: Path, failing: frozenset[str] = frozenset(), **sections: object) -> tuple[RunFolder, Run]:
    """Complete all shards of a run."""
    config = make_config(root, **sections)
    folder, plan = make_run(config, [make_row(i) for i in range(10)])
    return folder, Run(config, plan, {"python": "3"}, sample_all(folder, config, plan, failing))


@prefect
def test_a_published_dataset_is_whole(tmp_path: Path) -> None:
    folder, run = sampled(tmp_path / "out", failing=frozenset([IDS[2]]))
    manifest = publish_dataset(folder, run)
    assert manifest == read_json(folder.published / "manifest.json")
    assert folder.find_published() == manifest
    assert manifest["num_rows"] == 9
    assert manifest["quarantine"] == {"prompt_too_long": 1}
    assert manifest["engine"] == {"num_tokens": 15.0}
    assert manifest["figures"]["num_tokens"] == 45
    assert (manifest["run_id"], manifest["libraries"]) == (folder.run_id, {"python": "3"})
    (file,) = manifest["files"]
    path = folder.published / file["path"]
    assert (sha256_of(path), path.stat().st_size, pq.read_metadata(path).num_rows) == (
        file["sha256"],
        file["num_bytes"],
        9,
    )
    assert folder.latest.readlink() == Path(folder.version)
    assert sorted(p.name for p in (tmp_path / "out" / "d").iterdir()) == sorted([folder.version, "latest"])
    assert json.loads((folder.published / "report.json").read_text())["passed"] is True


@prefect
def test_the_datasets_library_reads_it(tmp_path: Path) -> None:
    folder, run = sampled(tmp_path / "out", failing=frozenset([IDS[2]]))
    publish_dataset(folder, run)
    rows = load_dataset(str(folder.published), cache_dir=str(tmp_path / "cache"))["train"]
    assert list(rows["id"]) == IDS[:2] + IDS[3:]
    assert [set(turn) for turn in rows[0]["messages"]] == [{"role", "content"}] * 2
    assert rows[0]["messages"][-1] == {"role": "assistant", "content": rows[0]["completion"]}
    assert len(rows[0]["alpha"]) == rows[0]["num_tokens"] == len(rows[0]["mode"])


@prefect
def test_latest_moves_to_the_newest(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        publish = {"root": str(tmp_path), "version": version}
        folder, run = sampled(tmp_path, publish=publish)
        publish_dataset(folder, run)
        assert folder.latest.resolve() == tmp_path / "d" / version
    assert (tmp_path / "d" / "v1" / "manifest.json").exists()


@prefect
def test_the_datasets_library_sees_that_latest_moved(tmp_path: Path) -> None:
    """With one cache, whose key in `datasets` is the folder's name, not its content."""
    for version, failing in (("v1", frozenset[str]()), ("v2", frozenset([IDS[0]]))):
        folder, run = sampled(
            tmp_path / "out", publish={"root": str(tmp_path / "out"), "version": version}, failing=failing
        )
        publish_dataset(folder, run)
        rows = load_dataset(str(folder.latest), cache_dir=str(tmp_path / "cache"))["train"]
        assert list(rows["id"]) == [row for row in IDS if row not in failing]


@prefect
def test_a_refused_dataset_is_kept_aside_and_its_work_too(tmp_path: Path) -> None:
    folder, run = sampled(tmp_path, validation={"kl_error_max": 1e-9})  # the made-up errors are about 1e-7
    with pytest.raises(RefusedError, match=r"max_kl_error.*1e-09.*refused/d"):
        publish_dataset(folder, run)
    assert not folder.published.exists()
    assert not folder.latest.exists()
    assert not folder.staged.exists()
    assert sorted(path.name for path in folder.refused.iterdir()) == [
        *("README.md", "data", "data_docs", "manifest.json", "report.html", "report.json"),
    ]
    assert json.loads((folder.refused / "report.json").read_text())["passed"] is False
    with pytest.raises(RefusedError):  # again: the earlier one is replaced
        publish_dataset(folder, run)
    # Other limits, no sampling.
    config = make_config(tmp_path, validation={"kl_error_max": 1e-6})
    assert publish_dataset(folder, Run(config, run.plan, run.libraries, run.shards))["published"]


@prefect
def test_an_error_leaves_nothing_half_published(tmp_path: Path) -> None:
    folder, run = sampled(tmp_path)
    folder.published.mkdir()
    (folder.published / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="has come into being"):
        publish_dataset(folder, run)
    assert [path.name for path in folder.published.iterdir()] == ["mine.txt"]
    assert not folder.staged.exists()
    assert not folder.latest.exists()
    (folder.published / "mine.txt").unlink()
    folder.published.rmdir()
    assert publish_dataset(folder, run)["num_rows"] == 10


@pytest.mark.parametrize("indices", [[1, 2, 3], [0, 0, 1, 2, 3], [1, 0, 2, 3]], ids=["lost", "twice", "swapped"])
def test_a_lost_or_duplicated_row_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indices: list[int]
) -> None:
    folder, run = sampled(tmp_path)
    verify(folder, run, stage(folder, run.plan, run.shards))

    def broken(shard: ShardFolder) -> pa.Table:
        table = read_table(shard)
        return table.take(indices) if shard == folder.shard(0) else table

    monkeypatch.setattr("tasks.publish.staging.read_table", broken)
    with pytest.raises(DualSamplingError, match="the staged rows are not the planned ones: 10 planned"):
        verify(folder, run, stage(folder, run.plan, run.shards))


def test_a_refusal_leaves_alone_what_it_did_not_make(tmp_path: Path) -> None:
    folder, _ = sampled(tmp_path)
    folder.refused.mkdir(parents=True)
    (folder.refused / "thesis.txt").write_text("mine")
    with (
        pytest.raises(
            OutputError, match=f"{folder.refused} holds no manifest.json, so it is no dataset .* move it away"
        ),
        locked(folder),
    ):
        raise AssertionError("it was locked")
    with pytest.raises(OutputError, match="move it away"):
        folder.check_refused()
    assert (folder.refused / "thesis.txt").read_text() == "mine"


def test_a_row_that_is_neither_published_nor_quarantined_is_noticed(tmp_path: Path) -> None:
    folder, run = sampled(tmp_path, failing=frozenset([IDS[9]]))
    summary = folder.shard(2).summary
    write_json(summary, {**(read_json(summary) or {}), "failures": []})
    with pytest.raises(DualSamplingError, match="the staged rows are not the planned ones: 10 planned"):
        verify(folder, run, stage(folder, run.plan, run.shards))


@prefect
def test_a_part_that_is_damaged_after_its_shard_was_completed_is_not_published(tmp_path: Path) -> None:
    folder, run = sampled(tmp_path)
    (part,) = folder.shard(1).parts.iterdir()
    part.write_bytes(part.read_bytes()[:-50])
    with pytest.raises(OutputError, match="is missing or damaged; run the same command again"):
        publish_dataset(folder, run)
    assert not folder.staged.exists()


def test_an_id_that_is_planned_twice_is_noticed(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    folder, plan = make_run(config, [make_row(i) for i in (*range(10), 3)])
    shards = [sample(folder, config, i, ids) for i, ids in enumerate((IDS[:4], IDS[4:8], [*IDS[8:], IDS[3]]))]
    with pytest.raises(DualSamplingError, match="11 planned, 11 staged, shard 00002 differs"):
        verify(folder, Run(config, plan, {}, shards), stage(folder, plan, shards))


def test_rows_are_verified_across_files(tmp_path: Path) -> None:
    folder, run = sampled(tmp_path, failing=frozenset([IDS[2]]), sampling={"n": 2})
    staged = stage(folder, run.plan, run.shards, group_bytes=1, file_bytes=1)
    assert (len(staged.files), staged.num_rows) == (18, 18)
    verify(folder, run, staged)
    (folder.staged / staged.files[7].path).write_bytes((folder.staged / staged.files[8].path).read_bytes())
    with pytest.raises(DualSamplingError, match="20 planned, 18 staged, shard 00001 differs"):
        verify(folder, run, staged)
