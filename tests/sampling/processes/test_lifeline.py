"""A process ends with the one at the other end of its pipe."""

from __future__ import annotations

import subprocess
import sys
from multiprocessing import Pipe

BUSY = "from sampling.processes.lifeline import end_with; end_with({}); print('ready', flush=True)\nwhile True: pass"


def test_a_process_ends_with_its_pipe_though_its_main_thread_is_busy() -> None:
    ours, theirs = Pipe()
    command = [sys.executable, "-c", BUSY.format(theirs.fileno())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        ours.send(("what comes through", "is for others to read"))
        assert process.poll() is None
        ours.close()
        assert process.wait(10) == 1
