"""Tests of the engine's process: it stays loaded, reports how it failed, and never outlives its run."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampling.errors import DualSamplingError, EngineDiedError, EngineError, EngineStalledError, ModelError, OutputError
from tasks.config import MetricsConfig, PipelineConfig
from tasks.run.folder import OWN_ENGINE, RunFolder
from tasks.run.parts import read_parts
from tasks.run.progress import Progress
from tasks.worker import engine_process
from tasks.worker.engine_process import EngineProcess
from tests.stand_in import ENGINE, ROW_S
from tests.tasks.runs import make_config, make_row, make_run

IDS = [make_row(i).id for i in range(8)]
LIMIT_S = 180.0  # a loaded machine takes a minute to load what an idle one loads in ten seconds
SLOW = {ROW_S: "0.15"}  # a shard of eight completions takes longer than a commit


def wait_until(ready: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def make_shards(root: Path, **sections: Any) -> tuple[RunFolder, PipelineConfig]:
    """Two shards of four rows, two samples each."""
    config = make_config(root, sampling={"max_tokens": 64, "n": 2}, **sections)
    return make_run(config, [make_row(i) for i in range(8)])[0], config


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(engine_process, "ENGINE", ENGINE)
    return make_shards(tmp_path)[0]


@pytest.fixture
def engine(folder: RunFolder) -> Iterator[EngineProcess]:
    """A process without models."""
    with EngineProcess(make_shards(folder.root / "other")[1], folder, SLOW) as process:
        yield process


@pytest.mark.slow
def test_shards_are_sampled_on_one_loaded_engine(
    tmp_path: Path, tiny_pair: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """With vLLM, and a metrics port that is taken. Its log messages are in the run's log once, and in the engine's."""
    caplog.set_level(logging.INFO, "tasks.worker.engine_process")
    models = {"teacher": {"model": str(tiny_pair[0])}, "theta": {"model": str(tiny_pair[1])}}
    folder, config = make_shards(tmp_path, models=models, engine={"max_num_seqs": 1})
    seen: list[Progress] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = config.model_copy(update={"metrics": MetricsConfig(port=taken.getsockname()[1])})
        with EngineProcess(config, folder) as engine:
            engine.sample(folder.shard(0), set(), seen.append)
            pid = engine.pid
            engine.sample(folder.shard(1), {(row, 1) for row in IDS[4:]}, lambda _: None)
            assert engine.pid == pid
    messages = [record.getMessage() for record in caplog.records if record.name == "tasks.worker.engine_process"]
    memory, warning = messages
    assert memory.startswith("memory: theta's weights ")
    assert re.fullmatch(r"127\.0\.0\.1:\d+ serves no metrics \(Address already in use\); choose another port", warning)
    assert memory in folder.engine_log(OWN_ENGINE).read_text()
    parts = read_parts(folder.shard(0).parts)
    assert sorted(parts.keys()) == [(row, k) for row in IDS[:4] for k in (0, 1)]
    assert parts.totals["num_requests"] == 8
    assert parts.totals["num_tokens"] == sum(parts.table["num_tokens"].to_pylist()) == seen[-1].num_tokens
    assert (seen[-1].num_done, seen[-1].num_failed) == (8, 0)
    assert [now.num_done for now in seen] == sorted(now.num_done for now in seen)
    parts = read_parts(folder.shard(1).parts)
    assert sorted(parts.keys()) == [(row, 0) for row in IDS[4:]]
    assert parts.totals["num_requests"] == 4  # of this attempt, not since loading


def test_the_next_shard_is_begun_while_one_is_completed(engine: EngineProcess, folder: RunFolder) -> None:
    engine.sample(folder.shard(0), set(), lambda now: None)
    pid = engine.pid
    engine.begin(folder.shard(1))
    assert engine.is_at(folder.shard(1))
    wait_until(lambda: list(folder.shard(1).parts.glob("*.parquet")))  # without being waited for
    seen: list[Progress] = []
    engine.sample(folder.shard(1), set(), seen.append)
    assert engine.pid == pid
    assert not engine.is_at(folder.shard(1))
    assert seen[-1].num_done == 8
    parts = read_parts(folder.shard(1).parts)
    assert sorted(parts.keys()) == [(row, k) for row in IDS[4:] for k in (0, 1)]
    assert parts.totals["num_requests"] == 8  # of this attempt, not since loading

    engine.begin(folder.shard(1))
    engine.sample(folder.shard(0), {(row, k) for row in IDS[:4] for k in (0, 1)}, lambda now: None)  # a retry
    assert engine.pid != pid  # the process that had begun another shard is ended


def test_a_dead_engine_raises_when_it_is_waited_for(engine: EngineProcess, folder: RunFolder) -> None:
    engine.sample(folder.shard(0), {(row, k) for row in IDS[:4] for k in (0, 1)}, lambda now: None)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    wait_until(lambda: engine.pid is not None and not is_alive(engine.pid))
    engine.begin(folder.shard(1))
    if engine.is_at(folder.shard(1)):  # the pipe took the request
        with pytest.raises(EngineDiedError, match="SIGKILL"):
            engine.sample(folder.shard(1), set(), lambda now: None)
    assert engine.pid is None


def test_a_killed_engine_is_noticed_at_once_and_keeps_what_it_committed(
    engine: EngineProcess, folder: RunFolder
) -> None:
    killed_at: list[float] = []

    def kill(now: Progress) -> None:
        if now.num_done and not killed_at and list(folder.shard(1).parts.iterdir()):
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            killed_at.append(time.monotonic())

    with pytest.raises(EngineDiedError, match=r"ended by SIGKILL \(often the kernel, out of memory\); .*engine.log"):
        engine.sample(folder.shard(1), set(), kill)
    assert time.monotonic() - killed_at[0] < 5
    assert engine.pid is None
    parts = read_parts(folder.shard(1).parts)
    assert parts.keys()
    assert parts.num_set_aside == 0


def test_an_engine_that_hangs_is_ended_and_keeps_what_it_committed(
    engine: EngineProcess, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.sample(folder.shard(1), {(row, k) for row in IDS[4:] for k in (0, 1)} - {(IDS[4], 0)}, lambda now: None)
    monkeypatch.setattr(engine, "_stall_timeout_s", 1.5)  # not before it is loaded, while its log may be quiet longer
    stopped: list[int] = []

    def stop(now: Progress) -> None:
        if now.num_done and not stopped:
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGSTOP)
            stopped.append(engine.pid)

    with pytest.raises(EngineStalledError, match=r"no line of its log for 1.5 s.*stall_timeout_s"):
        engine.sample(folder.shard(1), {(IDS[4], 0)}, stop)
    assert not is_alive(stopped[0])
    assert engine.pid is None
    assert (IDS[4], 0) in read_parts(folder.shard(1).parts).done()


def test_the_end_of_the_log_is_in_the_error(engine: EngineProcess, folder: RunFolder) -> None:
    folder.engine_log(OWN_ENGINE).write_text("of an earlier engine\n")

    def crash() -> None:
        wait_until(lambda: folder.engine_lock(OWN_ENGINE).exists())  # it has begun to load
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSEGV)

    thread = threading.Thread(target=crash)
    thread.start()
    with pytest.raises(EngineDiedError, match=r"ended by SIGSEGV; .*engine\.log ends: .* \| ") as caught:
        engine.sample(folder.shard(0), set(), lambda _: None)
    thread.join()
    assert "of an earlier engine" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("own", ModelError, r"^there is no model$"),
        ("foreign", EngineError, r"^ValueError: no such thing \(see .*engine\.log\)$"),
        ("disk", OutputError, r"^No space left on device; finished rows are kept: free space"),
    ],
)
def test_an_error_of_the_engine_is_raised_under_its_class(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[DualSamplingError], text: str
) -> None:
    monkeypatch.setattr(engine_process, "ENGINE", "tests.tasks.worker.broken_sampler:serve")
    config = make_config(folder.root)
    with EngineProcess(config, folder, {"BROKEN": name}) as process, pytest.raises(kind, match=text) as raised:
        process.sample(folder.shard(0), set(), lambda _: None)
    assert type(raised.value) is kind


def test_an_engine_whose_run_is_killed_ends_within_a_second(folder: RunFolder) -> None:
    config = make_config(folder.root)
    code = f"""
import threading
from tasks.config import PipelineConfig
from tasks.run.folder import RunFolder
from tasks.worker import engine_process
engine_process.ENGINE = {ENGINE!r}
config = PipelineConfig.model_validate_json({config.model_dump_json()!r})
folder = RunFolder.of(config, {folder.identity!r})
process = engine_process.EngineProcess(config, folder, {{{ROW_S!r}: "60"}})
thread = threading.Thread(target=process.sample, args=(folder.shard(0), set(), print))
thread.start()
while process.pid is None:
    pass
print(process.pid, flush=True)
"""
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    wait_until(lambda: folder.engine_lock(OWN_ENGINE).exists())  # it has begun to load
    assert is_alive(pid)
    run.kill()
    run.wait()
    wait_until(lambda: not is_alive(pid), limit_s=5.0)  # 1 s on an idle machine
