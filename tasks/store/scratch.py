"""A fresh local folder for a process whose files count only in an object store."""

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
SWEEP_TIMEOUT_S = 60.0  # another process removes what a killed one left: seconds, for gigabytes


_OF_PROCESS = ExitStack()
atexit.register(_OF_PROCESS.close)


def process_scratch() -> Path:
    """A fresh scratch folder that goes when this process ends."""
    return _OF_PROCESS.enter_context(scratch_folder())


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder of this process alone, removed at the end with all that lies in it.

    It is <temporary folder>/dual-sampling-<uid>/<random>/files; TMPDIR says where temporary files go. What a killed
    process left beside is removed first. Raises OutputError when the folder cannot be made, or is somebody else's.
    """
    parent = Path(tempfile.gettempdir()).resolve() / f"dual-sampling-{os.getuid()}"
    own = parent / uuid.uuid4().hex
    # Not per thread: Prefect may end a flow in another thread than the one that began it.
    lock = FileLock(own / LOCK, thread_local=False)
    try:
        _make_private(parent)
        # Between the making of a folder and its lock nobody sweeps.
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
    """Whoever may write to the temporary folder could have put a folder, or a link, of that name there."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise OutputError(f"{parent} is not a folder of this user; set TMPDIR to a folder of your own")
    if stat.S_IMODE(found.st_mode) != 0o700:
        raise OutputError(f"{parent} is open to other users; remove it, or set TMPDIR to a folder of your own")


def _sweep(parent: Path) -> None:
    """Remove the folders whose lock nobody holds: the system drops a process's locks however it ends."""
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
