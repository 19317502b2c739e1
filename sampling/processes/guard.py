"""The guard of a server: a small process that ends it when its starter ends.

It waits for its starter, or for the server, to end, then ends the server with all that it has started.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

GRACE_S = 5.0  # from SIGTERM to SIGKILL; a server takes 1 s


def guard(command: Sequence[str]) -> int:
    """Run a server until stdin says something or ends, or until it ends by itself; its exit code, 128 + n for signal n.

    Not PR_SET_PDEATHSIG: the death of the thread that started the child sets it off, and an engine does not inherit it.
    """
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    ended = os.pidfd_open(server.pid)
    select.select([sys.stdin.fileno(), ended], [], [])
    server.terminate()
    select.select([ended], [], [], GRACE_S)
    with suppress(ProcessLookupError):  # nothing is left; nobody has taken the number: `server` is not reaped yet
        os.killpg(server.pid, signal.SIGKILL)  # its engine, too
    code = server.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
