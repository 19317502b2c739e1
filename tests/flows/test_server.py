"""Prefect's temporary server: Ctrl-C ends the run, not the server that has yet to hear of it; SIGTERM both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import flows.server

CODE = """
from prefect.server.api.server import SubprocessASGIServer
from flows.server import start_server
start_server()
print(SubprocessASGIServer().server_process.pid, flush=True)
input()
"""


def blocks_sigint(pid: int) -> bool:
    (mask,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk")]
    return bool(int(mask.split()[1], 16) >> (signal.SIGINT - 1) & 1)


def test_the_server_does_not_hear_ctrl_c_and_ends_with_the_run(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment["PREFECT_HOME"] = str(tmp_path)  # no profile of the machine's
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        cwd=Path(flows.server.__file__).parent.parent,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    server = int(process.stdout.readline())
    assert blocks_sigint(server)
    assert not blocks_sigint(process.pid)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert not Path(f"/proc/{server}").exists()
