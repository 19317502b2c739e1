"""Tests of the run folder: its paths, its datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampling.errors import OutputError
from tasks.config import PipelineConfig
from tasks.run.folder import RunFolder
from tasks.run.lock import locked
from tasks.store.durable import sha256_of, write_json

IDENTITY: dict[str, dict[str, Any]] = {"sampling": {"temperature": 1.0, "seed": 0}, "source": {"fingerprint": "f"}}


def config(root: Path, version: str | None = None) -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "name": "d",
            "source": {"path": "x"},
            "models": {"teacher": {"model": "a"}, "theta": {"model": "b"}},
            "publish": {"root": str(root), "version": version},
        }
    )


def folder(root: Path, version: str | None = None, **sampling: float) -> RunFolder:
    identity = {**IDENTITY, "sampling": {**IDENTITY["sampling"], **sampling}}
    return RunFolder.of(config(root, version), identity)


def test_the_paths_of_a_run(tmp_path: Path) -> None:
    run = folder(tmp_path)
    assert run.version == run.run_id[:12]
    assert run.published == tmp_path / "d" / run.version
    assert run.work == tmp_path / "d" / ".work" / run.version
    assert run.refused == tmp_path / "refused" / "d" / run.version
    assert folder(tmp_path, "v1").published == tmp_path / "d" / "v1"
    assert folder(tmp_path, seed=1).version != run.version
    with pytest.raises(OutputError, match="latest"):
        folder(tmp_path, "latest")


def test_a_run_is_found_by_its_work_folder(tmp_path: Path) -> None:
    run = folder(tmp_path, "v1")
    with locked(run):
        run.write_run(config(tmp_path, "v1"), {})
    assert RunFolder.at(str(run.work)) == (run, config(tmp_path, "v1"))
    with pytest.raises(OutputError, match=r"holds no run\.json on .*mount the run's publish.root there"):
        RunFolder.at(str(run.work / "elsewhere"))
    with pytest.raises(OutputError, match="'v1' is no run's work folder"):
        RunFolder.at("v1")


def test_a_published_dataset_is_found_only_when_whole(tmp_path: Path) -> None:
    run = folder(tmp_path)
    assert run.find_published() is None
    data = run.published / "data" / "train-00000-of-00001.parquet"
    data.parent.mkdir(parents=True)
    with pytest.raises(OutputError, match=r"holds no manifest.json"):
        run.find_published()
    data.write_bytes(b"rows")
    files = [{"path": "data/train-00000-of-00001.parquet", "num_bytes": 4, "sha256": sha256_of(data)}]
    manifest = {"run_id": run.run_id, "identity": run.identity, "files": files}
    write_json(run.published / "manifest.json", manifest)
    assert run.find_published() == manifest
    data.write_bytes(b"r0ws")
    with pytest.raises(OutputError, match=r"train-00000-of-00001.parquet is not what manifest.json lists"):
        run.find_published()
    data.unlink()
    with pytest.raises(OutputError, match=r"train-00000-of-00001.parquet is not what manifest.json lists"):
        run.find_published()


def test_work_is_removed_with_its_folder_unless_another_version_is_there(tmp_path: Path) -> None:
    one, two = folder(tmp_path, "v1"), folder(tmp_path, "v2")
    with locked(one), locked(two):
        one.remove_work()
        assert not one.work.exists()
        assert two.work.exists()
        two.remove_work()
        assert not (tmp_path / "d" / ".work").exists()
