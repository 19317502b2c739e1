"""Tests of the run's lock: one writer at a time, of one configuration."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from sampling.errors import OutputError
from tasks.run.folder import OWN_ENGINE
from tasks.run.lock import locked
from tasks.store.durable import write_json
from tests.tasks.run.test_folder import config, folder


def test_a_second_run_is_refused_with_the_holder_of_the_folder(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with locked(run), pytest.raises(OutputError, match=f"pid {os.getpid()} on ") as caught, locked(run):
        pass
    assert "\n" not in str(caught.value)
    with locked(run):  # free again
        pass


def test_a_work_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    """Prompts with their references, logs and the configuration lie there; what is published is the user's to show."""
    run = folder(tmp_path)
    with locked(run):
        assert run.work.stat().st_mode & 0o777 == 0o700
        assert run.work.parent.parent.stat().st_mode & 0o077


@pytest.mark.parametrize("where", ["work", "parent"])
def test_a_work_folder_that_others_can_write_to_is_not_used(tmp_path: Path, where: str) -> None:
    """On a shared disk another user could have made it, with links in it to files of this one."""
    run = folder(tmp_path)
    (tmp_path / "private").write_text("mine")
    run.work.mkdir(parents=True)
    (run.work / "quarantine.jsonl").symlink_to(tmp_path / "private")
    (run.work if where == "work" else run.work.parent).chmod(0o777)
    with pytest.raises(OutputError, match="belongs to another user, or others can write to it"), locked(run):
        raise AssertionError("it was locked")
    (run.work if where == "work" else run.work.parent).chmod(0o755)
    with locked(run):  # of an earlier version
        assert run.work.stat().st_mode & 0o777 == 0o700


def test_the_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    run = folder(tmp_path)
    code = f"""
import sys, time
from pathlib import Path
from tasks.run.folder import RunFolder
from tasks.run.lock import locked
with locked(RunFolder(Path({str(tmp_path)!r}), "d", {run.version!r}, {run.identity!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match=f"pid {process.pid}"), locked(run):
        pass
    process.kill()
    process.wait()
    with locked(run):
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
    with locked(run):
        assert time.monotonic() - started > 0.5
        assert not run.engine_lock(OWN_ENGINE).exists() or process.wait(5) == 0


def test_engines_of_other_machines_are_left_alone_where_they_are_meant_to_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.run.lock.ORPHAN_TIMEOUT_S", 0.1)
    run = folder(tmp_path)
    run.work.mkdir(parents=True)
    with FileLock(run.engine_lock(f"{OWN_ENGINE}-1234")):
        with locked(run, "deployment"):
            pass
        with pytest.raises(OutputError, match=r"engine-1234\.lock.*cancel the sample-shards runs"), locked(run, "here"):
            pass


@pytest.mark.parametrize("where", ["work", "refused", "published"])
def test_a_folder_of_another_configuration_is_left_alone(tmp_path: Path, where: str) -> None:
    theirs, ours = folder(tmp_path, "v1"), folder(tmp_path, "v1", temperature=0.5)
    if where == "work":
        with locked(theirs):
            theirs.write_run(config(tmp_path, "v1"), {})
    else:
        dataset = theirs.refused if where == "refused" else theirs.published
        dataset.mkdir(parents=True)
        write_json(dataset / "manifest.json", {"run_id": theirs.run_id, "identity": theirs.identity, "files": []})
    match = r"belongs to another configuration \(sampling.temperature: 1.0 there, 0.5 here\); choose another"
    with pytest.raises(OutputError, match=match), locked(ours):
        ours.find_published()
    with locked(theirs):
        assert (theirs.find_published() is None) == (where != "published")


def test_a_root_that_is_no_folder_or_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    no_folder, no_writing = folder(tmp_path / "file"), folder(Path("/proc/1/published"))
    with pytest.raises(OutputError, match=r"Not a directory; choose another publish\.root"), locked(no_folder):
        pass
    with pytest.raises(OutputError, match=r"choose another publish\.root"), locked(no_writing):  # not even for root
        pass
