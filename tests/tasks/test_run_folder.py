"""The run folder: one writer at a time, and never another configuration's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from sampling.errors import OutputError
from tasks.config import PipelineConfig
from tasks.durable import sha256_of, write_json
from tasks.run_folder import OWN_ENGINE, RunFolder

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


def test_the_places_of_a_run(tmp_path: Path) -> None:
    run = folder(tmp_path)
    assert run.version == run.run_id[:12]
    assert run.published == tmp_path / "d" / run.version
    assert run.work == tmp_path / "d" / ".work" / run.version
    assert run.refused == tmp_path / "refused" / "d" / run.version
    assert folder(tmp_path, "v1").published == tmp_path / "d" / "v1"
    assert folder(tmp_path, seed=1).version != run.version
    with pytest.raises(OutputError, match="latest"):
        folder(tmp_path, "latest")


def test_a_second_run_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with run.locked(), pytest.raises(OutputError, match=f"pid {os.getpid()} on ") as caught, run.locked():
        pass
    assert "\n" not in str(caught.value)
    with run.locked():  # free again
        pass


def test_the_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    run = folder(tmp_path)
    code = f"""
import sys, time
from pathlib import Path
from typing import Any
from tasks.run_folder import OWN_ENGINE, RunFolder
with RunFolder(Path({str(tmp_path)!r}), "d", {run.version!r}, {run.identity!r}).locked():
    print("held", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match=f"pid {process.pid}"), run.locked():
        pass
    process.kill()
    process.wait()
    with run.locked():
        pass


def test_a_run_waits_for_the_engine_of_a_killed_run(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.work.mkdir(parents=True)
    code = f"""
import time
from filelock import FileLock
with FileLock({str(run.engine_lock(OWN_ENGINE))!r}):
    print("held", flush=True)
    time.sleep(1.0)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    started = time.monotonic()
    with run.locked():
        assert time.monotonic() - started > 0.5
        assert not run.engine_lock(OWN_ENGINE).exists() or process.wait(5) == 0


def test_engines_of_other_machines_are_left_alone_where_they_are_meant_to_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.run_folder.ORPHAN_TIMEOUT_S", 0.1)
    run = folder(tmp_path)
    run.work.mkdir(parents=True)
    with FileLock(run.engine_lock(f"{OWN_ENGINE}-1234")):
        with run.locked("deployment"):
            pass
        with pytest.raises(OutputError, match=r"engine-1234\.lock.*cancel the sample-shards runs"), run.locked("here"):
            pass


def test_a_run_at_work_is_found_by_its_folder(tmp_path: Path) -> None:
    run = folder(tmp_path, "v1")
    with run.locked():
        run.write_run(config(tmp_path, "v1"), {})
    assert RunFolder.at(str(run.work)) == (run, config(tmp_path, "v1"))
    with pytest.raises(OutputError, match=r"holds no run\.json on .*mount the run's publish.root there"):
        RunFolder.at(str(run.work / "elsewhere"))
    with pytest.raises(OutputError, match="'v1' is no run's work folder"):
        RunFolder.at("v1")


@pytest.mark.parametrize("where", ["work", "refused", "published"])
def test_a_folder_of_another_configuration_is_left_alone(tmp_path: Path, where: str) -> None:
    theirs, ours = folder(tmp_path, "v1"), folder(tmp_path, "v1", temperature=0.5)
    if where == "work":
        with theirs.locked():
            theirs.write_run(config(tmp_path, "v1"), {})
    else:
        place = theirs.refused if where == "refused" else theirs.published
        place.mkdir(parents=True)
        write_json(place / "manifest.json", {"run_id": theirs.run_id, "identity": theirs.identity, "files": []})
    match = r"belongs to another configuration \(sampling.temperature: 1.0 there, 0.5 here\); choose another"
    with pytest.raises(OutputError, match=match), ours.locked():
        ours.find_published()
    with theirs.locked():
        assert (theirs.find_published() is None) == (where != "published")


def test_a_published_dataset_is_found_only_when_whole(tmp_path: Path) -> None:
    run = folder(tmp_path)
    assert run.find_published() is None
    data = run.published / "data" / "train-00000-of-00001.parquet"
    data.parent.mkdir(parents=True)
    with pytest.raises(OutputError, match=r"holds no manifest.json"):
        run.find_published()
    data.write_bytes(b"rows")
    files = [{"path": "data/train-00000-of-00001.parquet", "num_rows": 1, "sha256": sha256_of(data)}]
    manifest = {"run_id": run.run_id, "identity": run.identity, "files": files}
    write_json(run.published / "manifest.json", manifest)
    assert run.find_published() == manifest
    data.write_bytes(b"r0ws")
    with pytest.raises(OutputError, match=r"train-00000-of-00001.parquet is not what manifest.json lists"):
        run.find_published()
    data.unlink()
    with pytest.raises(OutputError, match=r"train-00000-of-00001.parquet is not what manifest.json lists"):
        run.find_published()


def test_a_root_that_is_no_folder_or_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    no_folder, no_writing = folder(tmp_path / "file"), folder(Path("/proc/1/published"))
    with pytest.raises(OutputError, match=r"Not a directory; choose another publish\.root"), no_folder.locked():
        pass
    with pytest.raises(OutputError, match=r"choose another publish\.root"), no_writing.locked():  # not even for root
        pass


def test_work_is_removed_with_its_folder_unless_another_version_is_there(tmp_path: Path) -> None:
    one, two = folder(tmp_path, "v1"), folder(tmp_path, "v2")
    with one.locked(), two.locked():
        one.remove_work()
        assert not one.work.exists()
        assert two.work.exists()
        two.remove_work()
        assert not (tmp_path / "d" / ".work").exists()
