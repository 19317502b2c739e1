"""A run's hold on one shard, which no other run takes meanwhile."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from sampling.errors import OutputError
from tasks.run.folder import RunFolder
from tasks.run.shard_folder import LEASE, ShardFolder
from tasks.store.durable import read_json, write_json

if TYPE_CHECKING:
    from tasks.store.lease import Lease
    from tasks.store.mirror import Mirror


class Claims:
    """One process's claims on the shards of a run.

    In a folder a claim is a lock of the kernel's, or the file server's, which ends with its process, however that
    ends. In an object store, which has none, it is a lease, whose holder's death shows after half a minute.
    """

    def __init__(self, folder: RunFolder, holder: str) -> None:
        """`holder` is written into each claim, to be shown to others."""
        self._folder = folder
        self._holder = holder
        self._leases: dict[int, Lease] = {}  # each remembers what it saw, and so knows a dead one when it looks again

    @contextmanager
    def claimed(self, index: int, patient: bool = False) -> Iterator[int | None]:
        """Hold a shard; None when another process does.

        Gives how many holders were lost with it: processes that ended without releasing it, one after the other.
        `patient`: a holder that may be dead is watched until that is known.
        """
        shard = self._folder.shard(index)
        if shard.mirror is None:
            with _locked(shard, self._holder) as num_lost:
                yield num_lost
            return
        lease = self._lease(index, shard, shard.mirror)
        if not (lease.watch() if patient else lease.try_acquire()):
            yield None
            return
        try:
            shard.download()
            yield lease.num_lost
        finally:
            lease.release()
            del self._leases[index]

    @contextmanager
    def held(self, index: int) -> Iterator[None]:
        """The same where nobody else should hold it. Raises OutputError when somebody does."""
        with self.claimed(index, patient=True) as num_lost:
            if num_lost is None:
                raise OutputError(
                    f"shard {index:05d} is sampled by the flow run {self._holder_of(index)}: cancel it, or go on with"
                    " it (shards.run_on: deployment)"
                )
            yield

    def each_free(self, num_shards: int) -> Generator[tuple[int, int]]:
        """Each shard that is left and that nobody else holds, with the number of its lost holders.

        It is held until the next one is asked for, and has to be ended by then: completed or given up.
        """
        patient = False
        while True:
            found = False
            ended = self._folder.ended_shards()
            for index in range(num_shards):
                if index in ended:
                    continue
                with self.claimed(index, patient) as num_lost:
                    if num_lost is not None and not self._folder.shard(index).is_ended():
                        found = True
                        yield index, num_lost
            if not found and (patient or self._folder.mirror is None):
                return
            patient = not found

    def _lease(self, index: int, shard: ShardFolder, mirror: Mirror) -> Lease:
        from tasks.store.lease import Lease

        if index not in self._leases:
            self._leases[index] = Lease(mirror, shard.path / LEASE, {"run": self._holder})
        return self._leases[index]

    def _holder_of(self, index: int) -> str:
        if self._folder.mirror is None:
            return str((read_json(self._folder.shard(index).claim) or {}).get("holder"))
        return str((self._leases[index].holder or {}).get("run"))


@contextmanager
def _locked(shard: ShardFolder, holder: str) -> Iterator[int | None]:
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
