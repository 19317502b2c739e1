"""The files of one shard of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.store.mirror import Mirror

TABLE, SUMMARY, FAILURE = "shard.parquet", "shard.json", "failure.json"  # what a shard ends with
LEASE = "lease.json"
UNSHARED = {LEASE, "lock", "claim.json"}  # each machine's own, or read where it lies


@dataclass(frozen=True, slots=True)
class ShardFolder:
    """The files of one shard."""

    path: Path
    mirror: Mirror | None = None  # of the run's folder

    @property
    def rows(self) -> Path:
        """The planned rows."""
        return self.path / "rows.parquet"

    @property
    def parts(self) -> Path:
        """Folder of the finished rows, as they were committed."""
        return self.path / "parts"

    @property
    def table(self) -> Path:
        """The shard's part of the dataset."""
        return self.path / TABLE

    @property
    def summary(self) -> Path:
        """Written last: a shard is complete when it exists."""
        return self.path / SUMMARY

    @property
    def claim(self) -> Path:
        """Who samples the shard; left behind by a process that was killed."""
        return self.path / "claim.json"

    @property
    def failure(self) -> Path:
        """Why the shard was given up; removed when the run is started again."""
        return self.path / FAILURE

    def upload(self, file: Path) -> None:
        """Make a file count that is written: copy it to the object store, where there is one."""
        if self.mirror is not None:
            self.mirror.push(file)

    def download(self) -> None:
        """Get what other machines have written, where that is in an object store."""
        if self.mirror is not None:
            self.mirror.pull(self.path, lambda name: name not in UNSHARED)
            self.parts.mkdir(parents=True, exist_ok=True)  # a store holds no empty folder

    def download_outcome(self) -> None:
        """The same of what a shard ends with."""
        if self.mirror is not None:
            self.mirror.pull(self.path, lambda name: name in (TABLE, SUMMARY, FAILURE))

    def delete(self, file: Path) -> None:
        """Remove a file of what earlier runs have written, everywhere."""
        if self.mirror is not None and file.exists():  # else it was not fetched: nobody had written it
            self.mirror.remove(file)
        file.unlink(missing_ok=True)

    def is_ended(self) -> bool:
        """Whether it is complete or given up, here or on another machine."""
        exists = Path.exists if self.mirror is None else self.mirror.exists
        return exists(self.summary) or exists(self.failure)
