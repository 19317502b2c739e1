"""Tests of the temporary server: Ctrl-C does not reach it, and it ends with the run however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import flows.orchestration.server

pytestmark = pytest.mark.slow
LIMIT_S = 60.0  # an idle machine takes 2 s
CODE = """
from prefect.server.api.server import SubprocessASGIServer
from flows.orchestration.server import start_server
from flows.orchestration.signals import exit_on_sigterm
exit_on_sigterm()
start_server()
print(SubprocessASGIServer().server_process.pid, flush=True)
input()
"""


def blocks_sigint(pid: int) -> bool:
    (mask,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk")]
    return bool(int(mask.split()[1], 16) >> (signal.SIGINT - 1) & 1)


@contextmanager
def run_with_a_server(home: Path, wait: bool = True) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that starts the temporary server, and that server's pid; 0 where it is not waited for."""
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment["PREFECT_HOME"] = str(home)  # no profile of the user's
    environment |= {"HF_TOKEN": "s3cret", "AWS_SECRET_ACCESS_KEY": "s3cret"}
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        cwd=Path(flows.orchestration.server.__file__).parents[2],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline()) if wait else 0


def test_the_server_blocks_sigint_and_ends_with_a_terminated_run(tmp_path: Path) -> None:
    with run_with_a_server(tmp_path) as (process, server):
        assert blocks_sigint(server)
        assert not blocks_sigint(process.pid)
        assert b"s3cret" not in Path(f"/proc/{server}/environ").read_bytes()
        process.terminate()
        _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    assert process.returncode == 128 + signal.SIGTERM
    assert not Path(f"/proc/{server}").exists()


def test_the_server_ends_with_a_run_that_was_killed(tmp_path: Path) -> None:
    with run_with_a_server(tmp_path) as (process, server):
        process.kill()
        process.communicate(timeout=60)
    wait_for_end_of(server)


def test_the_server_ends_with_a_run_that_was_killed_while_it_starts(tmp_path: Path) -> None:
    with run_with_a_server(tmp_path, wait=False) as (process, _):
        deadline = time.monotonic() + LIMIT_S
        while not (servers := servers_of(process.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1.0)  # it takes some 5 s to answer
        process.kill()
        process.communicate(timeout=60)
    for server in servers:
        wait_for_end_of(server)


def servers_of(pid: int) -> list[int]:
    children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for child in children.split() if "uvicorn" in Path(f"/proc/{child}/cmdline").read_text()]


def wait_for_end_of(pid: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while Path(f"/proc/{pid}").exists() and ") Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
