"""Tests of measuring processes that fail."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from flows.cli.bench.child import run
from flows.cli.bench.plan import Job
from sampling.config import ModelConfig
from sampling.errors import EngineDiedError, ModelError

pytestmark = pytest.mark.slow


def test_an_error_of_the_process_is_raised_here(job: Job, tmp_path: Path) -> None:
    gone = ModelConfig(model=str(tmp_path / "gone"))
    with pytest.raises(ModelError, match=r"no model folder .*gone'"):
        run(job.model_copy(update={"theta": gone}), tmp_path / "log")
    assert "ModelError" in (tmp_path / "log").read_text()  # with its traceback


def test_a_process_that_is_killed_is_an_error_here(job: Job, tmp_path: Path) -> None:
    killer = threading.Thread(target=kill_the_child)
    killer.start()
    with pytest.raises(EngineDiedError, match=r"ended by SIGKILL \(often the kernel, out of memory\); .*log ends: "):
        run(job, tmp_path / "log")
    killer.join()


def kill_the_child() -> None:
    """Send SIGKILL to the measuring process that this one starts, as the kernel does when memory runs out."""
    while True:
        for children in Path("/proc/self/task").glob("*/children"):
            for child in children.read_text().split():
                if b"flows.cli.bench.measure" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)
                    return
        time.sleep(0.01)
