"""Tests of the progress display: counts, time left, terminal, log, Prefect's pages."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from flows.orchestration.progress import RunProgress, ShardPages
from tasks.run.folder import RunFolder
from tasks.run.progress import Progress


def test_speed_with_time_left_is_of_this_run_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress(100, num_quarantined=3) as progress:
        assert progress.tally.status() == "loading the engine, 3 quarantined"
        progress(0, Progress(num_done=40, num_failed=1))  # complete since an earlier run
        progress(1, Progress(num_done=10, num_failed=0))  # begun by an earlier run
        assert progress.tally.status() == "loading the engine, 4 quarantined"
        progress(1, Progress(num_done=15, num_failed=0, num_tokens=500, sampling_s=1.0))
        progress(1, Progress(num_done=20, num_failed=2, num_tokens=1000, sampling_s=2.0))
        assert progress.tally.num_done == 60
        # 10 completions in 2 s, 40 to go.
        assert progress.tally.status() == "500 tok/s, 0:00:08 left, 6 quarantined"
        progress(1, Progress(num_done=20, num_failed=2))  # the engine died: a new attempt counts from 0
        progress(1, Progress(num_done=22, num_failed=2, num_tokens=200, sampling_s=2.0))
        assert progress.tally.status() == "300 tok/s, 0:00:13 left, 6 quarantined"  # 12 in 4 s, 38 to go: 12.7 s
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "sampled 40 of 100, loading the engine, 4 quarantined"
    assert last == "sampled 62 of 100, 300 tok/s, 0:00:13 left, 6 quarantined"


def test_a_terminal_that_is_gone_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    gone = open(write, "w")  # noqa: SIM115  (closing it raises BrokenPipeError)
    monkeypatch.setattr(sys, "stderr", gone)
    with RunProgress(100, num_quarantined=0) as progress:
        progress(0, Progress(num_done=40, num_failed=1))
    with suppress(BrokenPipeError):
        gone.close()


def test_a_run_that_has_nothing_left_to_sample(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress(4, 0) as progress:
        progress(0, Progress(4, 0))
    assert capsys.readouterr().err.splitlines()[-1] == "sampled 4 of 4"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with RunProgress(4, 0) as progress:
        progress(0, Progress(1, 0))
        progress(0, Progress(2, 0, num_tokens=100, sampling_s=1.0))
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/4" in err
    assert "100 tok/s, 0:00:02 left" in err


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run with shards of 4, 4 and 2 planned rows."""
    folder = RunFolder(tmp_path, "Tom's shells", "v1", {})
    for index, num_rows in enumerate((4, 4, 2)):
        folder.shard(index).path.mkdir(parents=True)
        pq.write_table(pa.table({"id": [str(i) for i in range(num_rows)]}), folder.shard(index).rows)
    return folder


@pytest.mark.slow
def test_artifacts_show_the_whole_and_each_shard_that_samples(
    prefect_server: str, folder: RunFolder, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two samples a row; shard 0 was complete before, shard 1 becomes so, shard 2 stops half-way."""
    updates: dict[int, list[Progress]] = {
        0: [Progress(8, 1)],
        1: [Progress(2, 0), Progress(5, 0, 300, 1.0), Progress(5, 0), Progress(8, 1, 300, 1.0)],
        2: [Progress(0, 0), Progress(2, 0, 200, 1.0)],
    }

    @task
    def shard(index: int, progress: RunProgress) -> None:
        for now in updates[index]:
            progress(index, now)

    @flow
    def run() -> None:
        with RunProgress(20, 0, ShardPages(folder, 2)) as progress:
            for index in updates:
                shard(index, progress)

    with caplog.at_level(logging.INFO):
        run_id = run(return_state=True).state_details.flow_run_id
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sampled")]
    assert printed[0] == "sampled 10 of 20, loading the engine, 1 quarantined"  # all that was done before
    with get_client(sync_client=True) as client:
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        artifacts = {str(artifact.key): artifact for artifact in client.read_artifacts(artifact_filter=of_run)}
    assert {key: (artifact.type, artifact.data) for key, artifact in artifacts.items()} == {
        "tom-s-shells-v1-progress": ("progress", 90.0),
        "tom-s-shells-v1-shard-00001": ("progress", 100.0),
        "tom-s-shells-v1-shard-00002": ("progress", 50.0),
    }
    assert artifacts["tom-s-shells-v1-progress"].description == (
        "Tom's shells v1: 18 of 20, 267 tok/s, 0:00:01 left, 2 quarantined"
    )
    assert artifacts["tom-s-shells-v1-shard-00001"].description == "shard 00001: 8 of 8, 300 tok/s, 1 quarantined"
    assert artifacts["tom-s-shells-v1-shard-00002"].description == "shard 00002: 2 of 4, 200 tok/s, 0:00:01 left"
    assert artifacts["tom-s-shells-v1-progress"].task_run_id is None
    assert artifacts["tom-s-shells-v1-shard-00001"].task_run_id != artifacts["tom-s-shells-v1-shard-00002"].task_run_id
    lines: list[Any] = [record for record in caplog.records if hasattr(record, "shard")]
    assert [(line.run_id, line.shard, line.getMessage()) for line in lines] == [
        (folder.run_id[:12], 1, "shard 00001 begins: 2 of 8"),
        (folder.run_id[:12], 1, "shard 00001 is sampled: 8 of 8, 300 tok/s, 1 quarantined"),
        (folder.run_id[:12], 2, "shard 00002 begins: 0 of 4"),
    ]
