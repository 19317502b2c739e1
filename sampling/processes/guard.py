"""A guard process, which ends another program when the process that started the guard ends.

Not PR_SET_PDEATHSIG: the death of the thread that started the program sets it off, and the program's own children do
not inherit it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

GRACE_S = 5.0  # from SIGTERM to SIGKILL; a server takes 1 s
PID = "--pid"


def start_guarded(command: Sequence[str], output: IO[bytes], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a program behind a guard; return the guard, whose exit code is the program's.

    The program ends when the guard's stdin is written to or closed, which the death of this process does, too.
    """
    return _start(command, output, environment)


def end_guarded(guard: subprocess.Popen[bytes]) -> None:
    """Have a guard end its program; the guard ends when that has ended, and is not waited for here."""
    assert guard.stdin is not None
    with suppress(OSError):  # it has ended already
        guard.stdin.write(b"\n")  # closing is not enough: a forked child may hold the pipe open
        guard.stdin.close()


def guard_process(pid: int) -> subprocess.Popen[bytes]:
    """Have a process that runs already end with this one, by SIGTERM."""
    return _start([PID, str(pid)], subprocess.DEVNULL, {})  # it needs the standard library alone


def _start(
    arguments: Sequence[str], output: IO[bytes] | int, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", __file__, *arguments],  # by its path: it imports no package
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env=environment,
        start_new_session=True,  # a terminal's Ctrl-C is for this process alone
    )


def run_guarded(command: Sequence[str]) -> int:
    """Run a program until stdin says something or ends, or until it ends by itself.

    Return its exit code, 128 + n for signal n.
    """
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    ended = os.pidfd_open(program.pid)
    select.select([sys.stdin.fileno(), ended], [], [])
    program.terminate()
    select.select([ended], [], [], GRACE_S)
    with suppress(ProcessLookupError):  # nothing is left; nobody has taken the number: `program` is not reaped yet
        os.killpg(program.pid, signal.SIGKILL)  # its children, too
    code = program.wait()
    return code if code >= 0 else 128 - code


def end_process(pid: int) -> int:
    """Send SIGTERM to a process once stdin ends."""
    with suppress(ProcessLookupError):  # it ended before
        process = os.pidfd_open(pid)
        select.select([sys.stdin.fileno(), process], [], [])
        signal.pidfd_send_signal(process, signal.SIGTERM)
    return 0


if __name__ == "__main__":
    sys.exit(end_process(int(sys.argv[2])) if sys.argv[1] == PID else run_guarded(sys.argv[1:]))
