"""A run's hold on one shard, which no other run takes meanwhile."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from tasks.durable import read_json, write_json
from tasks.run_folder import RunFolder, ShardFolder


@contextmanager
def claimed(shard: ShardFolder, holder: str) -> Iterator[int | None]:
    """Hold a shard for this process; None when another one holds it.

    Gives how many holders were lost with it: processes that ended without releasing it, one after the other. The lock
    is the kernel's, or the file server's, and ends with its process, however that ends.
    """
    lock = FileLock(shard.path / "lock", thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield None
        return
    try:
        before = read_json(shard.claim)
        num_lost = 0 if before is None else int(before["num_lost"]) + 1
        write_json(shard.claim, {"holder": holder, "num_lost": num_lost})
        try:
            yield num_lost
        finally:
            shard.claim.unlink(missing_ok=True)
    finally:
        lock.release()


def unclaimed(folder: RunFolder, num_shards: int, holder: str) -> Generator[tuple[int, int]]:
    """Each shard that is left and that nobody else holds, with the number of its lost holders.

    It is held until the next one is asked for, and has to be ended by then: completed or given up.
    """
    found = True
    while found:
        found = False
        for index in range(num_shards):
            shard = folder.shard(index)
            if shard.is_ended():
                continue
            with claimed(shard, holder) as num_lost:
                if num_lost is not None and not shard.is_ended():
                    found = True
                    yield index, num_lost
