"""Tests of heartbeats, as another machine reads them."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks.run.folder import RunFolder
from tasks.run.heartbeat import Heartbeat, HeartbeatRecord, read_heartbeats
from tasks.run.progress import Progress

LIMIT_S = 60.0  # a record takes milliseconds


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path, "d", "v", {})
    folder.work.mkdir(parents=True)
    return folder


def next_record(folder: RunFolder, after: int) -> HeartbeatRecord:
    deadline = time.monotonic() + LIMIT_S
    while (record := read_heartbeats(folder)["run"]).number <= after:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return record


def test_records_begin_at_once_and_show_the_progress(folder: RunFolder) -> None:
    with Heartbeat(folder, "run", interval_s=0.02) as heartbeat:
        first = read_heartbeats(folder)["run"]
        assert (first.pid, first.shard, first.progress) == (os.getpid(), None, None)
        heartbeat.show(3, Progress(4, 1, 50, 0.5))
        record = next_record(folder, next_record(folder, first.number).number)
        assert (record.shard, record.progress) == (3, Progress(4, 1, 50, 0.5))
        heartbeat.set_idle()
    last = read_heartbeats(folder)["run"]  # written as it ends
    assert (last.shard, last.progress) == (None, None)
    assert last.number > record.number
    time.sleep(0.1)
    assert read_heartbeats(folder)["run"] == last


def test_a_disk_that_refuses_records_does_not_end_the_run(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    with Heartbeat(folder, "run", interval_s=0.02):
        shutil.rmtree(folder.runs)
        time.sleep(0.1)
    assert "sign of life cannot be written" in caplog.text
    assert read_heartbeats(folder) == {}


def test_many_runs_write_into_one_folder(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    runs = [f"run{i}" for i in range(4)]
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(Heartbeat(folder, run, interval_s=1e-4))
        deadline = time.monotonic() + LIMIT_S
        while (
            min(record.number for record in read_heartbeats(folder).values()) < 100
        ):  # enough: two collide within a dozen
            assert time.monotonic() < deadline
    assert caplog.text == ""
    written = {path.stem: json.loads(path.read_bytes())["run"] for path in folder.runs.glob("*.json")}
    assert written == {run: run for run in runs}
    assert len(list(folder.runs.iterdir())) == len(runs)


def test_an_unreadable_record_is_left_out(folder: RunFolder) -> None:
    with Heartbeat(folder, "run"):
        for name, text in {"torn": '{"run": "to', "list": "[]", "odd": '{"run": 1, "progress": 5}'}.items():
            (folder.runs / f"{name}.json").write_text(text)
        assert read_heartbeats(folder).keys() == {"run"}
