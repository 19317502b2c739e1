"""A child process: it imports this project wherever it runs, ends with its parent, hands its errors back."""

from __future__ import annotations

import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from sampling.errors import CapacityError
from sampling.processes.child import Child
from sampling.processes.environment import environment

THIS = "tests.sampling.processes.test_child"


def echo(connection: Connection) -> None:
    """Send each object back; raise what it is told to."""
    while True:
        received = connection.recv()
        if received == "fail":
            raise CapacityError("too large")
        connection.send(received)


def busy(connection: Connection) -> None:
    """Never look at the pipe again."""
    connection.send("ready")
    while True:
        pass


def test_objects_cross_and_an_error_arrives_with_its_class(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        child = Child(f"{THIS}:echo", log)
    child.connection.send({"a": 1})
    assert child.connection.recv() == {"a": 1}
    child.connection.send("fail")
    assert child.connection.recv() == ("error", {"error": "CapacityError", "text": "too large"})
    assert child.process.wait(30) == 1
    assert "Traceback" in (tmp_path / "log").read_text()
    child.kill(1.0)


def test_it_ends_with_its_pipe_though_its_main_thread_is_busy() -> None:
    child = Child(f"{THIS}:busy")
    assert child.connection.recv() == "ready"
    child.connection.send(("what comes through", "is for others to read"))
    assert child.process.poll() is None
    child.connection.close()
    assert child.process.wait(30) == 1


def test_it_ends_with_a_parent_that_is_killed() -> None:
    code = (
        f"from sampling.processes.child import Child; child = Child({THIS + ':busy'!r});"
        " child.connection.recv(); print(child.process.pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    status = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 30
    while status.exists() and ") Z " not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_folder_of_our_name_in_the_working_directory_shadows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sampling").mkdir()
    (tmp_path / "sampling" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    child = Child(f"{THIS}:echo", variables={"MORE": "more"})
    child.connection.send(1)
    assert child.connection.recv() == 1
    assert b"MORE=more" in Path(f"/proc/{child.process.pid}/environ").read_bytes()
    child.kill(30.0)
