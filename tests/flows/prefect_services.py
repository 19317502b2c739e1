"""A Prefect server with its workers, each a process of its own: what deployments run on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prefect.client.base import PrefectHttpxSyncClient

import flows

ROOT = Path(flows.__file__).parent.parent
START_S = 240.0  # an idle machine takes 8 s
RUN_S = 420.0  # a flow run, which an idle machine does in 40 s


@dataclass
class PrefectServices:
    """One server's address, its home, and everything that was started for it."""

    folder: Path
    address: str
    environment: dict[str, str]
    has_pages: bool = False
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)  # by their names
    server: subprocess.Popen[bytes] = field(init=False)

    def call(self, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        """A command that ends, run in the checkout; stdin is closed, so whoever asks a question gets none answered."""
        return subprocess.run(
            [sys.executable, *argv],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_S,
        )

    def prefect(self, *argv: str) -> str:
        """What `prefect …` prints; it must succeed."""
        done = self.call("-m", "prefect", *argv)
        assert done.returncode == 0, f"{done.stdout}\n{self.logs()}"
        return done.stdout

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the server answers; Prefect's own client asks again where SQLite is busy (503)."""
        with PrefectHttpxSyncClient(base_url=f"{self.address}/", timeout=60) as client:
            return client.request(method, path, json=body).json()

    def start_server(self) -> None:
        """The server, on its port, with what its database holds; returns when it answers."""
        port = self.address.removesuffix("/api").rpartition(":")[2]
        pages = "--ui" if self.has_pages else "--no-ui"
        self.server = self.start("server.log", ["server", "start", "--port", port, pages], cwd=self.folder)
        wait_until(lambda: is_healthy(self, self.server), self)

    def start_worker(self, pool: str, *argv: str, name: str = "worker") -> None:
        """A worker of a pool, elsewhere than in the checkout; it asks for work once a second."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        argv = ("worker", "start", "--pool", pool, "--name", name, *argv)
        self.workers[name] = self.start(f"{name}.log", [*argv], cwd=folder)

    def start(self, log: str, argv: list[str], cwd: Path) -> subprocess.Popen[bytes]:
        """`prefect …` in the background, in a process group of its own, which ends with the services."""
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *argv],
                cwd=cwd,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def logs(self) -> str:
        """The last lines of every process."""
        texts = {path: path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log"))}
        return "\n".join(f"--- {path.name}\n{text[-6000:]}" for path, text in texts.items())

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End a process group without a word; a worker's runs, with their engines, are in its own."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.processes.remove(process)

    def stop(self) -> None:
        """End every process group, the last one first."""
        for process in reversed(self.processes.copy()):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            self.kill(process)

    def alive(self) -> list[str]:
        """The command lines of those processes that still run with this server's home in their environment."""
        marker = f"PREFECT_HOME={self.environment['PREFECT_HOME']}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if marker in path.read_bytes().split(b"\0"):
                    found.append((path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


@contextmanager
def prefect_services(folder: Path, has_pages: bool = False, **settings: str) -> Iterator[PrefectServices]:
    """A server that nobody else knows: its home, database and port are its own. `settings` are Prefect's."""
    port = free_port()
    address = f"http://127.0.0.1:{port}/api"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": address,
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # whoever misses this server must not start another
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "1",
        "COLUMNS": "400",  # rich breaks no line
        **settings,
    }
    services = PrefectServices(folder, address, environment, has_pages)
    try:
        services.start_server()
        yield services
    finally:
        services.stop()


def is_healthy(services: PrefectServices, server: subprocess.Popen[bytes]) -> bool:
    assert server.poll() is None, services.logs()
    with suppress(httpx.TransportError):
        return httpx.get(f"{services.address}/health", timeout=5).status_code == 200
    return False


def wait_until(ready: Callable[[], bool], services: PrefectServices) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        assert time.monotonic() < deadline, services.logs()
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
