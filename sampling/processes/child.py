"""A Python child process that talks to its parent over a pipe, and ends with it.

Not multiprocessing: its spawn imports the caller's main module again, which may be a script without a guard, or
Prefect. Not PR_SET_PDEATHSIG: the death of the thread that started the process sets it off.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO

from sampling.processes.environment import environment
from sampling.processes.errors import as_message


class Child:
    """A process that runs a function of this project with its end of the pipe.

    The function takes a `Connection`; what it raises arrives here as ("error", Message). The process hears no Ctrl-C,
    which is the parent's to handle, and ends at once, with exit code 1, when the parent's end of the pipe closes.
    """

    def __init__(
        self,
        function: str,
        output: IO[bytes] | int | None = None,
        pass_fds: Sequence[int] = (),
        variables: Mapping[str, str] | None = None,
        keep: Collection[str] = (),
    ) -> None:
        """Start `function`, "package.module:name"; `output` receives what it prints, `variables` join its environment.

        Of this process's secrets it has those that `keep` names, as `environment` takes them. It imports what this
        process could. A folder named sampling/, tasks/ or flows/ in the current directory does not shadow this
        project's (-P).
        """
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, function, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno(), *pass_fds],
                env=environment(keep, **(variables or {})),
            )

    def kill(self, timeout_s: float) -> None:
        """End the process at once; wait `timeout_s` at most, for one may be stuck in a driver, which nothing ends."""
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        self.connection.close()


def end_with(descriptor: int) -> None:
    """End this process when the other end of a socket closes, whatever its main thread is doing."""
    poll = select.poll()
    poll.register(descriptor, 0)  # its hang-up alone: what arrives is for others to read

    def wait() -> None:
        poll.poll()
        os._exit(1)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


def main(function: str, descriptor: int) -> None:
    """Run a function with this process's end of the pipe; end without waiting for threads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)
    end_with(descriptor)  # before the imports, which take seconds
    connection = Connection(descriptor)
    code = 0
    try:
        module, _, name = function.partition(":")
        run: Callable[[Connection], None] = getattr(import_module(module), name)
        run(connection)
    except EOFError:  # the parent has ended
        code = 1
    except BaseException as error:
        traceback.print_exc()
        code = 1
        with suppress(OSError):  # the parent has ended
            connection.send(("error", as_message(error)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # whatever state the engine's threads are in, nothing of it is needed


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
