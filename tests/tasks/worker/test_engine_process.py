"""The engine's process: stays loaded, tells how it failed, and never outlives its run."""

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

import pytest

from sampling.errors import EngineDiedError, EngineStalledError, ModelError
from tasks.config import MetricsConfig, PipelineConfig
from tasks.run.folder import OWN_ENGINE, RunFolder
from tasks.run.parts import read_parts
from tasks.run.progress import Progress
from tasks.worker.engine_process import EngineProcess
from tests.tasks.runs import make_config, make_row, make_run

IDS = [make_row(i).id for i in range(8)]
LIMIT_S = 180.0  # a loaded machine takes a minute to load what an idle one loads in ten seconds


def config_of(models: tuple[Path, Path], root: Path, max_tokens: int = 64) -> PipelineConfig:
    teacher, theta = models
    # One completion after the other, so that a shard takes longer than a commit.
    return make_config(
        root,
        models={"teacher": {"model": str(teacher)}, "theta": {"model": str(theta)}},
        sampling={"max_tokens": max_tokens, "n": 2},
        engine={"max_num_seqs": 1},
    )


def wait_until(ready: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_pair: tuple[Path, Path]) -> RunFolder:
    """Two shards of four rows, two samples each."""
    config = config_of(tiny_pair, tmp_path_factory.mktemp("run"))
    return make_run(config, [make_row(i) for i in range(8)])[0]


@pytest.fixture(scope="module")
def engine(tiny_pair: tuple[Path, Path], folder: RunFolder) -> Iterator[EngineProcess]:
    """Its port of metrics is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        metrics = MetricsConfig(port=taken.getsockname()[1])
        config = config_of(tiny_pair, folder.root).model_copy(update={"metrics": metrics})
        with EngineProcess(config, folder) as process:
            yield process


def test_shards_are_sampled_on_one_loaded_engine(
    engine: EngineProcess, folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """What the sampler has to say of its memory stands once in the run's log, and in the engine's."""
    caplog.set_level(logging.INFO, "tasks.worker.engine_process")
    seen: list[Progress] = []
    engine.sample(folder.shard(0), set(), seen.append)
    said, warned = (record.getMessage() for record in caplog.records if record.name == "tasks.worker.engine_process")
    assert said.startswith("memory: theta's weights ")
    assert re.fullmatch(r"127\.0\.0\.1:\d+ serves no metrics \(Address already in use\); choose another port", warned)
    assert said in folder.engine_log(OWN_ENGINE).read_text()
    pid = engine.pid
    parts = read_parts(folder.shard(0).parts)
    assert sorted(parts.keys()) == [(row, k) for row in IDS[:4] for k in (0, 1)]
    assert parts.totals["num_requests"] == 8
    assert parts.totals["num_tokens"] == sum(parts.table["num_tokens"].to_pylist()) == seen[-1].num_tokens
    assert seen[-1].num_done == 8
    assert seen[-1].num_failed == 0
    assert [now.num_done for now in seen] == sorted(now.num_done for now in seen)

    skip = {(row, 1) for row in IDS[4:]}
    engine.sample(folder.shard(1), skip, seen.append)
    assert engine.pid == pid
    parts = read_parts(folder.shard(1).parts)
    assert sorted(parts.keys()) == [(row, 0) for row in IDS[4:]]
    assert parts.totals["num_requests"] == 4  # of this attempt, not since loading


def test_the_next_shard_is_begun_while_one_is_completed(engine: EngineProcess, folder: RunFolder) -> None:
    for shard in (folder.shard(0), folder.shard(1)):
        for path in shard.parts.iterdir():
            path.unlink()
    engine.sample(folder.shard(0), set(), lambda now: None)
    pid = engine.pid
    engine.begin(folder.shard(1))
    assert engine.is_at(folder.shard(1))
    wait_until(lambda: list(folder.shard(1).parts.glob("*.parquet")))  # nobody waits for it yet
    seen: list[Progress] = []
    engine.sample(folder.shard(1), set(), seen.append)
    assert engine.pid == pid
    assert not engine.is_at(folder.shard(1))
    assert seen[-1].num_done == 8
    assert sorted(read_parts(folder.shard(1).parts).keys()) == [(row, k) for row in IDS[4:] for k in (0, 1)]

    engine.begin(folder.shard(1))
    engine.sample(folder.shard(0), {(row, k) for row in IDS[:4] for k in (0, 1)}, lambda now: None)  # tried again
    assert engine.pid != pid  # what was begun is ended


def test_an_engine_that_died_shows_when_it_is_waited_for(engine: EngineProcess, folder: RunFolder) -> None:
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
    before = set(folder.shard(1).parts.iterdir())

    def kill(now: Progress) -> None:
        if now.num_done and not killed_at and set(folder.shard(1).parts.iterdir()) - before:
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            killed_at.append(time.monotonic())

    skip = {(row, 0) for row in IDS[4:]}
    with pytest.raises(EngineDiedError, match=r"ended by SIGKILL \(often the kernel, out of memory\); .*engine.log"):
        engine.sample(folder.shard(1), skip, kill)
    assert time.monotonic() - killed_at[0] < 5
    assert engine.pid is None
    assert set(read_parts(folder.shard(1).parts).keys()) > skip
    assert read_parts(folder.shard(1).parts).num_set_aside == 0


def test_an_engine_that_hangs_is_ended_and_keeps_what_it_committed(
    engine: EngineProcess, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in folder.shard(1).parts.iterdir():
        path.unlink()
    engine.sample(folder.shard(1), {(row, k) for row in IDS[4:] for k in (0, 1)} - {(IDS[4], 0)}, lambda now: None)
    monkeypatch.setattr(engine, "_stall_timeout_s", 3.0)  # it is loaded now: while it loads its log may rest for longer
    stopped: list[int] = []

    def stop(now: Progress) -> None:
        if now.num_done and not stopped:
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGSTOP)
            stopped.append(engine.pid)

    with pytest.raises(EngineStalledError, match=r"no line of its log for 3 s.*stall_timeout_s"):
        engine.sample(folder.shard(1), {(IDS[4], 0)}, stop)
    assert not is_alive(stopped[0])
    assert engine.pid is None
    assert (IDS[4], 0) in read_parts(folder.shard(1).parts).done()


def test_the_end_of_the_log_is_in_the_error(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    config = config_of(tiny_pair, tmp_path)
    folder, _ = make_run(config, [make_row(0)])
    folder.engine_log(OWN_ENGINE).write_text("of an earlier engine\n")
    with EngineProcess(config, folder) as process:

        def crash() -> None:
            wait_until(lambda: folder.engine_lock(OWN_ENGINE).exists())  # it has begun to load
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSEGV)

        thread = threading.Thread(target=crash)
        thread.start()
        with pytest.raises(EngineDiedError, match=r"ended by SIGSEGV; .*engine.log ends: .* | ") as caught:
            process.sample(folder.shard(0), set(), lambda _: None)
        thread.join()
    assert "of an earlier engine" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_engine_is_raised_as_itself(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    (tmp_path / "no-model").mkdir()
    config = config_of((tmp_path / "no-model", tiny_pair[1]), tmp_path)
    folder, _ = make_run(config, [make_row(0)])
    with EngineProcess(config, folder) as process, pytest.raises(ModelError, match="no-model"):
        process.sample(folder.shard(0), set(), lambda _: None)


def test_an_engine_whose_run_is_killed_ends_within_a_second(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    config = config_of(tiny_pair, tmp_path)
    folder, _ = make_run(config, [make_row(0)])
    code = f"""
import threading
from tasks.config import PipelineConfig
from tasks.config import PipelineConfig
from tasks.worker.engine_process import EngineProcess
from tasks.run.folder import OWN_ENGINE, RunFolder
config = PipelineConfig.model_validate_json({config.model_dump_json()!r})
folder = RunFolder.of(config, {folder.identity!r})
process = EngineProcess(config, folder)
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
