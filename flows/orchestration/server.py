"""Prefect's own server, for a run on a machine that has none."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextvars import copy_context

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL

GUARD = """
import os, select, signal, sys
try:
    server = os.pidfd_open(int(sys.argv[1]))
    select.select([0, server], [], [])
    signal.pidfd_send_signal(server, signal.SIGTERM)
except ProcessLookupError:  # as ever: it ended before us
    pass
"""
_guards: dict[int, subprocess.Popen[bytes]] = {}  # by their server's pid; each sees our end by that of its stdin


def start_server() -> None:
    """Start the temporary server so that Ctrl-C does not end it: the run still has to tell it how it ended.

    Without this a terminal's Ctrl-C ends the server together with the run, whose last report then waits more than a
    minute for it.
    """
    if PREFECT_API_URL.value() is not None:
        return  # a server is there
    # A process inherits the signal mask of the thread that starts it, and no handler of its own undoes that. In a
    # thread of its own, Ctrl-C is blocked for the server and not for us. If it fails, the flow starts it again.
    thread = threading.Thread(target=copy_context().run, args=(_start,), daemon=True)
    thread.start()
    thread.join()


def _start() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    server = SubprocessASGIServer()
    starting = threading.Thread(target=copy_context().run, args=(server.start,), daemon=True)
    starting.start()
    while starting.is_alive():
        _guard(server.server_process)
        starting.join(0.05)
    _guard(server.server_process)


def _guard(server: subprocess.Popen[bytes] | None) -> None:
    """The server ends with us, however we end: a process that is killed by SIGKILL runs no farewell of Prefect's."""
    if server is not None and server.pid not in _guards:
        command = [sys.executable, "-P", "-c", GUARD, str(server.pid)]
        guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
        _guards[server.pid] = guard
