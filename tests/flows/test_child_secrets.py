"""Each kind of process that is started here, and the secrets that it is given: /proc shows its whole environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.cli.bench import child as bench_child
from flows.cli.bench.plan import Job
from sampling.config import EngineConfig, ModelConfig
from sampling.processes.child import Child
from sampling.processes.guard import end_guarded, guard_process
from sampling.prompts.renderer import Renderer
from sampling.workers.workers import Workers
from tasks.store.mirror import Mirror
from tasks.worker import engine_process
from tasks.worker.engine_process import EngineProcess
from tests.stand_in import ENGINE
from tests.tasks.runs import make_config, make_row, make_run
from validations.measure.correctness import Grader

KEYS = {"DUAL_SAMPLING_THETA_API_KEY", "DUAL_SAMPLING_TEACHER_API_KEY"}
STORE = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
SECRETS = {"HF_TOKEN", "PREFECT_API_KEY", "WANDB_API_KEY", "DATABASE_PASSWORD", *KEYS, *STORE}
VALUE = "s3cret-Kx81"
SERVED = {name: {"model": "a", "url": "http://127.0.0.1:9"} for name in ("theta", "teacher")}


def secrets_of(pid: int) -> set[str]:
    """The variables of a process that hold a secret."""
    text, deadline = "", time.monotonic() + 30.0
    while "PYTHONPATH=" not in text and time.monotonic() < deadline:  # the kernel is still loading the program
        text = Path(f"/proc/{pid}/environ").read_bytes().decode()
    return {line.partition("=")[0] for line in text.split("\0") if VALUE in line}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The secrets of each Child that is started, in a process that has them all."""
    for name in SECRETS:
        monkeypatch.setenv(name, VALUE)
    found: list[set[str]] = []
    start = Child.__init__

    def record(child: Child, *args: Any, **kwargs: Any) -> None:
        start(child, *args, **kwargs)
        found.append(secrets_of(child.process.pid))

    monkeypatch.setattr(Child, "__init__", record)
    monkeypatch.setattr(engine_process, "ENGINE", ENGINE)
    return found


def engine(folder: Path, url: str | None = None, **sections: Any) -> None:
    config = make_config(folder, **sections)
    run, _ = make_run(config, [make_row(0)])
    if url is not None:
        run = replace(run, mirror=Mirror(url, run.root))  # which is not asked for anything
    process = EngineProcess(config, run)
    process.begin(run.shard(0))
    assert process._child is not None
    process._child.kill(30.0)


def bench(folder: Path, mode: Any) -> None:
    model = ModelConfig(model=str(folder / "none"))
    job = Job(mode=mode, theta=model, teacher=model, engine=EngineConfig(), num_ids=9, prompt_tokens=1, max_tokens=1)
    with pytest.raises(Exception, match="none"):  # there is no such model
        bench_child.run(job, folder / "log")


def grader(folder: Path) -> None:
    with Grader(num_workers=1) as judge:
        assert judge.grade([("so it is \\boxed{0.5}", "1/2")]) == [True]


def renderer(folder: Path) -> None:
    rendering = Renderer()
    rendering._start_if_needed()
    rendering.stop()


def worker(folder: Path) -> None:
    workers = Workers("theta", (1,), os.memfd_create("shared"), on_gpus=False)
    workers.close()


@pytest.mark.parametrize(
    ("kind", "given", "secrets"),
    [
        (engine, {}, set()),
        (engine, {"models": SERVED}, KEYS),
        (engine, {"url": "s3://bucket/out"}, STORE),
        (bench, {"mode": "lockstep"}, set()),
        (grader, {}, set()),
        (renderer, {}, set()),
        (worker, {}, set()),
    ],
)
@pytest.mark.slow
def test_a_child_has_the_secrets_that_it_needs(
    kind: Callable[..., None], given: dict[str, Any], secrets: set[str], started: list[set[str]], tmp_path: Path
) -> None:
    kind(tmp_path, **given)
    assert started == [secrets]


def test_a_guard_has_none(started: list[set[str]]) -> None:
    guarded = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    guard = guard_process(guarded.pid)
    assert VALUE not in Path(f"/proc/{guard.pid}/environ").read_text()
    end_guarded(guard)
    assert guarded.wait(30) == -signal.SIGTERM
    assert guard.wait(30) == 0
