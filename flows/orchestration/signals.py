"""What SIGTERM does to a run's process, which docker stop, systemd, Slurm and `timeout` send it."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

TERMINATED = 128 + signal.SIGTERM  # the exit status, as a shell has it


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as `sys.exit` does, unless somebody else has a use for it.

    Prefect hands the signal on to whoever had it before the flow. With nobody there the process dies at that moment:
    the run stays Running for ever, its hooks tell nobody, and a temporary server is left behind.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(TERMINATED)
