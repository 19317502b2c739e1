"""A temporary local folder of one process, for a run whose output is stored in an object store."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sampling.errors import OutputError

LOCK = "lock"
FILES = "files"
SWEEP_TIMEOUT_S = 60.0  # another process may be removing a killed one's gigabytes, for seconds

_OF_PROCESS = ExitStack()
atexit.register(_OF_PROCESS.close)


def process_scratch() -> Path:
    """Create a scratch folder that is removed when this process ends."""
    return _OF_PROCESS.enter_context(scratch_folder())


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Create an empty private folder, removed with its content at the end.

    It is <temporary folder>/dual-sampling-<uid>/<random>/files, where TMPDIR sets the temporary folder. Folders of
    killed processes are removed first. Raises OutputError if it cannot be made or its parent belongs to another user.
    """
    parent = Path(tempfile.gettempdir()).resolve() / f"dual-sampling-{os.getuid()}"
    own = parent / uuid.uuid4().hex
    # Not per thread: Prefect may end a flow in another thread than it began in.
    lock = FileLock(own / LOCK, thread_local=False)
    try:
        _make_private(parent)
        # No other process sweeps between mkdir and lock.
        with FileLock(parent / LOCK, timeout=SWEEP_TIMEOUT_S):
            _sweep(parent)
            (own / FILES).mkdir(parents=True)
            lock.acquire()
    except Timeout:
        raise OutputError(f"{parent / LOCK} is held for {SWEEP_TIMEOUT_S:.0f} s; end its process") from None
    except OSError as error:
        raise OutputError(f"{parent}: {error.strerror or error}; set TMPDIR to a folder with room") from error
    try:
        yield own / FILES
    finally:
        shutil.rmtree(own, ignore_errors=True)
        lock.release()


def _make_private(parent: Path) -> None:
    """Create `parent`, and check its owner and mode: any user could have made a folder or link of that name."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise OutputError(f"{parent} is not a folder of this user; set TMPDIR to a folder of your own")
    if stat.S_IMODE(found.st_mode) != 0o700:
        raise OutputError(f"{parent} is open to other users; remove it, or set TMPDIR to a folder of your own")


def _sweep(parent: Path) -> None:
    """Remove the folders whose lock is free: the system releases a process's locks however it ends."""
    for folder in parent.iterdir():
        if not folder.is_dir() or folder.is_symlink():
            continue
        lock = FileLock(folder / LOCK, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
