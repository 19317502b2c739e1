"""The folder of a run: where its work lies, who may write there, what it has published."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sampling.errors import OutputError
from tasks.config import PipelineConfig
from tasks.durable import output_errors, read_json, sha256_of, write_json
from tasks.identity import Identity, differing_keys, run_id_of

LATEST = "latest"
OWN_ENGINE = "engine"
ORPHAN_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class ShardFolder:
    """The files of one shard."""

    path: Path

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
        return self.path / "shard.parquet"

    @property
    def summary(self) -> Path:
        """Written last: a shard is complete when it exists."""
        return self.path / "shard.json"

    @property
    def claim(self) -> Path:
        """Who samples the shard; left behind by a process that was killed."""
        return self.path / "claim.json"

    @property
    def failure(self) -> Path:
        """Why the shard was given up; removed when the run is started again."""
        return self.path / "failure.json"

    def is_ended(self) -> bool:
        """Whether it is complete or given up."""
        return self.summary.exists() or self.failure.exists()


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The places of one run.

    <root>/<name>/.work/<version>/   run.json, plan.json, quarantine.jsonl, engine.log, lock, shards/, runs/, staged/
    <root>/<name>/<version>/         the published dataset
    <root>/refused/<name>/<version>/ the dataset that the gate refused
    """

    root: Path
    name: str
    version: str
    identity: Identity

    @classmethod
    def of(cls, config: PipelineConfig, identity: Identity) -> RunFolder:
        """The folder of a configuration's run; the version defaults to 12 digits of the run's identity."""
        version = config.publish.version or run_id_of(identity)[:12]
        if version == LATEST:
            raise OutputError(f"publish.version {LATEST!r} is the name of the link; choose another version")
        # The root itself may be a link, which is followed once, here.
        return cls(Path(config.publish.root).expanduser().resolve(), config.name, version, identity)

    @classmethod
    def at(cls, work: str) -> tuple[RunFolder, PipelineConfig]:
        """The run that is at work in a folder, with its configuration. Raises OutputError when there is none."""
        path = Path(work)
        run = read_json(path / "run.json")
        if run is None:
            raise OutputError(
                f"{path} holds no run.json on {socket.gethostname()}; mount the run's publish.root there at the same"
                " path, or start the run first"
            )
        folder = cls(path.parent.parent.parent, path.parent.parent.name, path.name, run["identity"])
        return folder, PipelineConfig.model_validate(run["config"])

    @property
    def run_id(self) -> str:
        """The run's identity, 64 hex digits."""
        return run_id_of(self.identity)

    @property
    def work(self) -> Path:
        """Everything that a resume needs; removed when the dataset is published."""
        return self.root / self.name / ".work" / self.version

    @property
    def published(self) -> Path:
        """The published dataset."""
        return self.root / self.name / self.version

    @property
    def latest(self) -> Path:
        """Link to the version published last."""
        return self.root / self.name / LATEST

    @property
    def refused(self) -> Path:
        """The dataset that the gate refused."""
        return self.root / "refused" / self.name / self.version

    @property
    def staged(self) -> Path:
        """The dataset before it is judged."""
        return self.work / "staged"

    @property
    def plan(self) -> Path:
        """Written when every row is planned: the run can sample."""
        return self.work / "plan.json"

    @property
    def quarantine(self) -> Path:
        """One JSON line a row that could not be planned."""
        return self.work / "quarantine.jsonl"

    @property
    def runs(self) -> Path:
        """What the runs of `shards.deployment` say of themselves."""
        return self.work / "runs"

    def engine_lock(self, name: str) -> Path:
        """Held by an engine's process for as long as it can write rows; the run's own engine is `engine`."""
        return self.work / f"{name}.lock"

    def engine_log(self, name: str) -> Path:
        """What vLLM, torch, the engine's process print."""
        return self.work / f"{name}.log"

    def shard(self, index: int) -> ShardFolder:
        """The folder of a shard, counted from 0."""
        return ShardFolder(self.work / "shards" / f"{index:05d}")

    @contextmanager
    def locked(self, run_on: str = "here") -> Iterator[None]:
        """Hold the work folder for this process alone.

        `run_on` is `shards.run_on`: runs of a deployment may go on in the folder of a run that was killed. Raises
        OutputError when it cannot be written, when another run holds it (its pid and host are named), or when it
        belongs to another configuration (the keys that differ are named).
        """
        with output_errors(self.work):
            self.work.mkdir(parents=True, exist_ok=True)
            # Not per thread: Prefect may run a task in another thread than the one that took the lock.
            lock = FileLock(self.work / "lock", thread_local=False)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                holder = read_json(self.work / "holder.json") or {"pid": "?", "host": "?", "since": "?"}
                raise OutputError(
                    f"{self.work} is held by another run (pid {holder['pid']} on {holder['host']}, since"
                    f" {holder['since']}); wait for it, end it, or choose another publish.version"
                ) from None
        try:
            self._wait_for_orphans(
                self.engine_lock(OWN_ENGINE).name if run_on == "deployment" else f"{OWN_ENGINE}*.lock"
            )
            with output_errors(self.work):
                since = datetime.now(UTC).isoformat(timespec="seconds")
                holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
                write_json(self.work / "holder.json", holder)
            self._check_owner()
            yield
        finally:
            lock.release()

    def write_run(self, config: PipelineConfig, libraries: dict[str, str]) -> None:
        """Say whose work folder this is."""
        run = {"run_id": self.run_id, "identity": self.identity, "config": config.model_dump(mode="json")}
        write_json(self.work / "run.json", {**run, "libraries": libraries})

    def was_begun(self) -> bool:
        """Whether the work folder holds a run's work, not only this process's lock."""
        return (self.work / "run.json").exists()

    def find_published(self) -> dict[str, Any] | None:
        """The manifest of this run's published dataset, or None when there is none.

        Raises OutputError when the folder holds another run's dataset, something else, or a damaged dataset.
        """
        if not self.published.exists():
            return None
        manifest: dict[str, Any] | None = read_json(self.published / "manifest.json")
        if manifest is None:
            raise OutputError(f"{self.published} holds no manifest.json; move it away or choose another version")
        self._check_identity(self.published, manifest)
        for file in manifest["files"]:
            path = self.published / file["path"]
            if not path.is_file() or sha256_of(path) != file["sha256"]:
                raise OutputError(
                    f"{path} is not what manifest.json lists (sha256 {file['sha256'][:12]}…); remove"
                    f" {self.published} to produce it again"
                )
        return manifest

    def remove_work(self) -> None:
        """Remove the work folder, after its dataset was published."""
        shutil.rmtree(self.work, ignore_errors=True)
        with suppress(OSError):  # another version may be at work there
            self.work.parent.rmdir()

    def _wait_for_orphans(self, pattern: str) -> None:
        """An engine whose run was killed ends itself within a second; until then it may still commit rows."""
        for path in self.work.glob(pattern):
            orphan = FileLock(path)
            try:
                orphan.acquire(timeout=ORPHAN_TIMEOUT_S)
            except Timeout:
                raise OutputError(
                    f"an engine of an earlier run still writes to {self.work} (it holds {path.name}); end its process,"
                    " or cancel the sample-shards runs, or go on with them: shards.run_on: deployment"
                ) from None
            orphan.release()

    def _check_owner(self) -> None:
        for folder, document in ((self.work, "run.json"), (self.refused, "manifest.json")):
            if (owner := read_json(folder / document)) is not None:
                self._check_identity(folder, owner)

    def _check_identity(self, folder: Path, owner: dict[str, Any]) -> None:
        if owner["run_id"] == self.run_id:
            return
        differing = "; ".join(differing_keys(owner["identity"], self.identity))
        raise OutputError(
            f"{folder} belongs to another configuration ({differing}); choose another publish.version, or remove"
            " that folder"
        )
