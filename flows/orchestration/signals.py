"""The SIGTERM handler of a run's process; docker stop, systemd, Slurm and `timeout` send that signal."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

TERMINATED = 128 + signal.SIGTERM  # the exit status that a shell reports


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as `sys.exit` does, unless another handler is installed.

    A flow run passes the signal on to the handler that was installed before it. Without one the process dies at once:
    the flow run stays Running, its hooks do not run, and a temporary server is left behind.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(TERMINATED)
