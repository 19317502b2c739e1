"""Tests of shard outcomes as read from the run's folder; tests/flows/production has the rest, with workers."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Failed, Running

import flows.orchestration.fan_out
from flows.orchestration.fan_out import FanOut
from sampling.errors import EngineError
from tasks.config import PipelineConfig
from tasks.run.folder import RunFolder
from tasks.run.parts import read_parts
from tasks.run.progress import Progress
from tasks.worker.shard import give_up, read_table
from tests.tasks.runs import make_config, make_row, make_run, sample

IDS = [make_row(i).id for i in range(8)]


class Runs:
    """A fake of SamplingRuns: no run is ever alive, and each that is started samples what is left."""

    deployment, pool = "sample-shards/sample-shards", "gpu"

    def __init__(self, folder: RunFolder, config: PipelineConfig) -> None:
        self._folder, self._config = folder, config
        self.num_started = 0

    def num_workers(self) -> int:
        return 1

    def read(self) -> list[None]:
        return []

    def start(self) -> None:
        self.num_started += 1
        for index in {0, 1} - self._folder.ended_shards():
            done = read_parts(self._folder.shard(index).parts).done()
            left = [row for row in IDS[4 * index : 4 * index + 4] if (row, 0) not in done]
            sample(self._folder, self._config, index, left)

    def withdraw(self) -> list[None]:
        return []

    def cancel(self) -> None:
        self.num_started = -1


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineConfig:
    monkeypatch.setattr(flows.orchestration.fan_out, "POLL_S", 0.01)
    monkeypatch.setattr(flows.orchestration.fan_out, "ASK_S", 0.0)
    return make_config(tmp_path)


@pytest.fixture
def folder(config: PipelineConfig) -> RunFolder:
    """Two shards, sampled by runs whose heartbeats are gone."""
    folder, _ = make_run(config, [make_row(i) for i in range(8)])
    for index in range(2):
        sample(folder, config, index, IDS[4 * index : 4 * index + 4])
    return folder


def test_a_complete_shard_needs_no_heartbeat(config: PipelineConfig, folder: RunFolder) -> None:
    runs, seen = Runs(folder, config), dict[int, Progress]()
    summaries = FanOut(config, folder, runs, seen.__setitem__, lambda num: None).sample(2)  # type: ignore[arg-type]
    assert [summary.num_rows for summary in summaries] == [4, 4]
    assert runs.num_started == 0
    assert seen == {0: Progress(4, 0), 1: Progress(4, 0)}


@pytest.mark.parametrize("damage", ["part", "summary of another"])
def test_a_damaged_shard_is_made_again(config: PipelineConfig, folder: RunFolder, damage: str) -> None:
    shard = folder.shard(0)
    (part,) = shard.parts.iterdir()
    whole = part.read_bytes()
    if damage == "part":
        part.write_bytes(whole[:100] + b"?" + whole[101:])
    else:
        shard.summary.write_bytes(folder.shard(1).summary.read_bytes())
    runs = Runs(folder, config)
    FanOut(config, folder, runs, lambda index, now: None, lambda num: None).sample(2)  # type: ignore[arg-type]
    assert runs.num_started == 1
    assert [row["id"] for row in read_table(shard).to_pylist()] == IDS[:4]


def test_a_shard_that_was_given_up_gets_another_chance(config: PipelineConfig, folder: RunFolder) -> None:
    folder.shard(1).summary.unlink()
    give_up(folder.shard(1), EngineError("no memory"))
    runs = Runs(folder, config)
    assert len(FanOut(config, folder, runs, lambda index, now: None, lambda num: None).sample(2)) == 2  # type: ignore[arg-type]
    assert runs.num_started == 1


def test_a_shard_that_is_given_up_is_named(config: PipelineConfig, folder: RunFolder) -> None:
    folder.shard(1).summary.unlink()
    runs = Runs(folder, config)

    def start() -> None:
        give_up(folder.shard(1), EngineError("shard 00001: no memory"))

    runs.start = start  # type: ignore[method-assign]
    fan_out = FanOut(config, folder, runs, lambda index, now: None, lambda num: None)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r"shard 00001: no memory \(on .*\); every other shard is kept"):
        fan_out.sample(2)
    assert folder.shard(0).summary.exists()


def test_a_failed_run_is_replaced_once_another_has_sampled_a_shard(
    config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two workers fails at first: the limit of 2 was 1 for the rest of the run."""
    config = config.model_copy(update={"shards": config.shards.model_copy(update={"max_runs": 2})})
    folder, _ = make_run(config, [make_row(i) for i in range(16)])
    runs, started = Runs(folder, config), list[FlowRun]()

    def start() -> None:
        state: State[None] = Failed(message="no GPU") if not started else Running()
        started.append(FlowRun(flow_id=uuid4(), name=f"#{len(started)}", state=state))

    def read() -> list[FlowRun]:
        """The living run samples one more shard at every look."""
        left = sorted(set(range(4)) - folder.ended_shards())
        if started and left:
            sample(folder, config, left[0], [make_row(i).id for i in range(4 * left[0], 4 * left[0] + 4)])
        return started

    monkeypatch.setattr(runs, "start", start)
    monkeypatch.setattr(runs, "read", read)
    summaries = FanOut(config, folder, runs, lambda index, now: None, lambda num: None).sample(4)  # type: ignore[arg-type]
    assert [summary.num_rows for summary in summaries] == [4, 4, 4, 4]
    assert [run.name for run in started] == ["#0", "#1", "#2"]
