"""Exclusive claims on shards, for runs that sample one dataset side by side."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from sampling.errors import OutputError
from tasks.run.folder import RunFolder
from tasks.run.shard_folder import LEASE, ShardFolder
from tasks.store.durable import read_json, write_json

if TYPE_CHECKING:
    from tasks.store.lease import Lease


class Claims:
    """One process's claims on the shards of a run.

    In a folder a claim is a file lock, which the kernel or the file server releases when the process ends. In an
    object store, which has no locks, it is a lease, which expires half a minute after its holder's process ended.
    """

    def __init__(self, folder: RunFolder, holder: str) -> None:
        """`holder` is written into each claim, and shown in the errors of other processes."""
        self._folder = folder
        self._holder = holder
        self._leases: dict[int, Lease] = {}  # kept, for a lease is seen to be dead by a second look

    @contextmanager
    def claimed(self, index: int, patient: bool = False) -> Iterator[int | None]:
        """Claim a shard; yield None when another process holds it.

        Else yield its number of lost holders: processes in a row that ended without releasing it. `patient`: watch a
        holder that may be dead until that is known.
        """
        shard = self._folder.shard(index)
        if shard.mirror is None:
            with _locked(shard, self._holder) as num_lost:
                yield num_lost
            return
        from tasks.store.lease import Lease

        if index not in self._leases:
            self._leases[index] = Lease(shard.mirror, shard.path / LEASE, {"run": self._holder})
        lease = self._leases[index]
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
        """Claim a shard that no other process should hold. Raises OutputError when one does."""
        with self.claimed(index, patient=True) as num_lost:
            if num_lost is None:
                if self._folder.mirror is None:
                    holder = (read_json(self._folder.shard(index).claim) or {}).get("holder")
                else:
                    holder = (self._leases[index].holder or {}).get("run")
                raise OutputError(
                    f"shard {index:05d} is sampled by the flow run {holder}: cancel it, or go on with it"
                    " (shards.run_on: deployment)"
                )
            yield

    def in_order(self, num_shards: int) -> Generator[tuple[int, int | None]]:
        """Yield each shard, which no other process should hold, with the one after it; None where another holds that.

        Both are held until the generator advances, so that an engine may begin the second one. Raises OutputError as
        `held` does.
        """
        with ExitStack() as ahead:
            has_this = False
            for index in range(num_shards):
                with ahead.pop_all() as this:
                    if not has_this:
                        this.enter_context(self.held(index))
                    has_this = index + 1 < num_shards and ahead.enter_context(self.claimed(index + 1)) is not None
                    yield index, index + 1 if has_this else None

    def each_free(self, num_shards: int) -> Generator[tuple[int, int]]:
        """Yield each unfinished shard that no other process holds, with its number of lost holders.

        A shard is held until the generator advances; by then the caller must have completed it or given it up.
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
