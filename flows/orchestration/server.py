"""The start of Prefect's temporary server, for a run on a machine that has none."""

from __future__ import annotations

import signal
import subprocess
import threading
from contextvars import copy_context

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL

from sampling.processes.environment import without_secrets
from sampling.processes.guard import guard_process

_guards: dict[int, subprocess.Popen[bytes]] = {}  # by their server's pid; each ends it when this process ends


def start_server() -> None:
    """Start the temporary server so that Ctrl-C does not end it: the run still has to report how it ended.

    Without this a terminal's Ctrl-C ends the server together with the run, whose last report then waits more than a
    minute for it. With PREFECT_API_URL set nothing is started.
    """
    if PREFECT_API_URL.value() is not None:
        return
    # A process inherits the signal mask of the thread that starts it, and no handler of its own undoes that. In a
    # thread of its own, Ctrl-C is blocked for the server and not for this process. If it fails, the flow starts it.
    thread = threading.Thread(target=copy_context().run, args=(_start,), daemon=True)
    thread.start()
    thread.join()


def _start() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    server = SubprocessASGIServer()
    starting = threading.Thread(target=copy_context().run, args=(server.start,), daemon=True)
    with without_secrets(keep=["PREFECT_"]):  # its own may be a password of its database
        starting.start()
        while starting.is_alive() and server.server_process is None:
            starting.join(0.01)
    while starting.is_alive():
        _guard(server.server_process)
        starting.join(0.05)
    _guard(server.server_process)


def _guard(server: subprocess.Popen[bytes] | None) -> None:
    """End the server with this process, also after SIGKILL, when Prefect's own clean-up does not run."""
    if server is not None and server.pid not in _guards:
        _guards[server.pid] = guard_process(server.pid)
