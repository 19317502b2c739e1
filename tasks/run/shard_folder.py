"""The files of one shard of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.store.mirror import Mirror

SUMMARY, FAILURE = "shard.json", "failure.json"  # one of them ends a shard
LEASE = "lease.json"
UNSHARED = {LEASE, "lock", "claim.json"}  # never downloaded: of each machine alone, or read in the store


@dataclass(frozen=True, slots=True)
class ShardFolder:
    """The files of one shard.

    rows.parquet         the planned rows
    parts/               the committed completions
    claim.json           the holder of the shard's lock; left behind by a process that was killed
    shard.json           the summary, written last: the shard is complete when it exists
    failure.json         the error that the shard was given up with; removed when the run is started again
    """

    path: Path
    mirror: Mirror | None = None  # of the run's folder

    @property
    def rows(self) -> Path:
        return self.path / "rows.parquet"

    @property
    def parts(self) -> Path:
        return self.path / "parts"

    @property
    def summary(self) -> Path:
        return self.path / SUMMARY

    @property
    def claim(self) -> Path:
        return self.path / "claim.json"

    @property
    def failure(self) -> Path:
        return self.path / FAILURE

    def upload(self, file: Path) -> None:
        """Copy a written file to the object store, if there is one."""
        if self.mirror is not None:
            self.mirror.push(file)

    def download(self) -> None:
        """Copy what other machines have written from the object store, if there is one."""
        if self.mirror is not None:
            self.mirror.pull(self.path, lambda name: name not in UNSHARED)
            self.parts.mkdir(parents=True, exist_ok=True)  # a store holds no empty folder

    def delete(self, file: Path) -> None:
        """Remove a file, here and in the object store."""
        if self.mirror is not None and file.exists():  # else it was not downloaded: nobody had written it
            self.mirror.remove(file)
        file.unlink(missing_ok=True)

    def is_ended(self) -> bool:
        """Return whether the shard is complete or given up, here or on another machine."""
        exists = Path.exists if self.mirror is None else self.mirror.exists
        return exists(self.summary) or exists(self.failure)
