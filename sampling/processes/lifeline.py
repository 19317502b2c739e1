"""The end of a process with the one that started it.

Imported before anything that takes seconds to import, torch above all.
"""

from __future__ import annotations

import os
import select
import threading


def end_with(descriptor: int) -> None:
    """End this process when the other end of a socket closes, whatever its main thread waits for.

    Not PR_SET_PDEATHSIG: the death of the thread that started the process sets it off.
    """
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_watch, args=(descriptor,), name="lifeline", daemon=True).start()


def _watch(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)  # nothing but its end; what comes through is for others to read
    poll.poll()
    os._exit(1)
