"""The lock of a run's work folder: one process at a time, of one configuration."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from sampling.errors import OutputError
from tasks.run.folder import OWN_ENGINE, RUNS, RunFolder
from tasks.run.shard_folder import UNSHARED
from tasks.store.durable import make_private, output_errors, read_json, write_json
from tasks.store.manifest import MANIFEST

ENGINE_LOCKS = f"{OWN_ENGINE}*.lock"
ORPHAN_TIMEOUT_S = 30.0


@contextmanager
def locked(folder: RunFolder, run_on: str = "here") -> Iterator[Callable[[], None]]:
    """Hold a run's work folder for this process alone; yield a check that raises OutputError once it is lost.

    `run_on` is `shards.run_on`: runs of a deployment may go on in the folder of a run that was killed. What an object
    store holds of the run is downloaded. Raises OutputError when the folder cannot be written, when another run holds
    it (its pid and host are named), or when it belongs to another configuration (the keys that differ are named).
    """
    with output_errors(folder.work):
        make_private(folder.work.parent)
        make_private(folder.work)  # prompts and logs lie there
        # Not thread-local: Prefect may run a task in another thread than the one that acquired the lock.
        lock = FileLock(folder.work / "lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            holder = read_json(folder.work / "holder.json") or {"pid": "?", "host": "?", "since": "?"}
            raise OutputError(
                f"{folder.work} is held by another run (pid {holder['pid']} on {holder['host']}, since"
                f" {holder['since']}); wait for it, end it, or choose another publish.version"
            ) from None
    try:
        with _leased(folder) as check:
            if folder.mirror is not None:
                folder.mirror.pull(folder.work, _is_work if run_on == "here" else _is_of_the_plan)
                folder.mirror.refresh(folder.refused / MANIFEST)
            _wait_for_orphans(folder, folder.engine_lock(OWN_ENGINE).name if run_on == "deployment" else ENGINE_LOCKS)
            with output_errors(folder.work):
                since = datetime.now(UTC).isoformat(timespec="seconds")
                holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
                write_json(folder.work / "holder.json", holder)
            _check_owner(folder)
            yield check
    finally:
        lock.release()


@contextmanager
def _leased(folder: RunFolder) -> Iterator[Callable[[], None]]:
    """Hold a lease on a run whose folder is in an object store, which has no file locks."""
    if folder.mirror is None:
        yield lambda: None
        return
    from tasks.store.lease import Lease

    with Lease(folder.mirror, folder.work.with_name(f"{folder.version}.lease")) as lease:
        yield lease.check


def _wait_for_orphans(folder: RunFolder, pattern: str) -> None:
    """Wait for the engine of a killed run, which ends within a second and may commit rows until then."""
    for path in folder.work.glob(pattern):
        orphan = FileLock(path)
        try:
            orphan.acquire(timeout=ORPHAN_TIMEOUT_S)
        except Timeout:
            raise OutputError(
                f"an engine of an earlier run still writes to {folder.work} (it holds {path.name}); end its process,"
                " or cancel the sample-shards runs, or go on with them: shards.run_on: deployment"
            ) from None
        orphan.release()


def _check_owner(folder: RunFolder) -> None:
    if (owner := read_json(folder.work / "run.json")) is not None:
        folder.check_identity(folder.work, owner)
    folder.check_refused()


def _is_work(name: str) -> bool:
    """Return whether a run that samples here needs this file of another machine's work."""
    return Path(name).name not in UNSHARED and not name.startswith(f"{RUNS}/")


def _is_of_the_plan(name: str) -> bool:
    """Return the same without the sampled parts, which are downloaded shard by shard."""
    return _is_work(name) and "/parts/" not in name
