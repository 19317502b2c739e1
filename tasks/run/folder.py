"""The folder of a run: the paths of its work and datasets, with their copies in an object store."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampling.errors import OutputError
from tasks.config import PipelineConfig
from tasks.run.identity import Identity, differing_keys, run_id_of
from tasks.run.shard_folder import FAILURE, SUMMARY, ShardFolder
from tasks.store.durable import read_as, sha256_of, sync, write_json
from tasks.store.manifest import MANIFEST, listed_files, read_manifest
from tasks.store.scratch import process_scratch

if TYPE_CHECKING:
    from tasks.store.mirror import Mirror
    from tasks.store.stored_dataset import StoredDataset

LATEST = "latest"
UPLOADING = "keeping"  # marks an upload of the run's dataset that may be incomplete
OWN_ENGINE = "engine"
RUNS = "runs"


@dataclass(frozen=True, slots=True)
class _Run:
    """What run.json says to another process."""

    identity: Identity
    config: PipelineConfig


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run.

    <root>/<name>/<version>/           the published dataset; <root>/<name>/latest links to the newest
    <root>/refused/<name>/<version>/   the dataset that the quality gate refused
    <root>/<name>/.work/<version>/     all that a resumed run needs; removed when the dataset is published
        run.json, plan.json            what the run is; its plan, written when every row is planned
        quarantine.jsonl               the rows that could not be planned
        shards/, runs/, staged/        a folder for each shard; heartbeats; the dataset before it is judged
        lock, engine.lock, engine.log  of the run; of its engine

    If publish.root is an object store's URL, <root> is a scratch folder of this process, and the store holds the state:
    a file takes effect once it is uploaded, and what is missing here is downloaded.
    """

    root: Path
    name: str
    version: str
    identity: Identity
    mirror: Mirror | None = field(default=None, compare=False)

    @classmethod
    def of(cls, config: PipelineConfig, identity: Identity, options: Mapping[str, Any] | None = None) -> RunFolder:
        """Return the folder of a configuration's run; the version defaults to 12 digits of the run's identity.

        `options`: of an object store, such as its keys.
        """
        version = config.publish.version or run_id_of(identity)[:12]
        if version == LATEST:
            raise OutputError(f"publish.version {LATEST!r} is the name of the link; choose another version")
        root, mirror = _open_root(config.publish.root, options)
        return cls(root, config.name, version, identity, mirror)

    @classmethod
    def at(
        cls, work: str, options: Mapping[str, Any] | None = None, run_sha256: str | None = None
    ) -> tuple[RunFolder, PipelineConfig]:
        """Return the run whose work folder or URL is `work`, with its configuration.

        `run_sha256`: of its run.json, 64 hex digits, which a URL needs: whoever may write to an object store could name
        another server or model there. Raises OutputError when there is none, or another one.
        """
        if work.count("/") < 4:
            raise OutputError(f"{work!r} is no run's work folder: <root>/<name>/.work/<version>")
        parent, name, _, version = work.rstrip("/").rsplit("/", 3)
        root, mirror = _open_root(parent, options)
        path = root / name / ".work" / version
        if mirror is not None and run_sha256 is None:
            raise OutputError(
                f"{work} is in an object store, whose run.json may be anybody's; give run_sha256, its digest, which the"
                " run that waits for the shards logs"
            )
        if mirror is not None:
            mirror.pull(path, lambda name: "/" not in name)  # without the shards
        run = read_as(_Run, path / "run.json")
        if run is None:
            raise OutputError(
                f"{work} holds no run.json on {socket.gethostname()}; mount the run's publish.root there at the same"
                " path, or start the run first"
            )
        if run_sha256 is not None and (found := sha256_of(path / "run.json")) != run_sha256.lower():
            raise OutputError(
                f"{work} holds a run.json with sha256 {found}, not {run_sha256!r} (run_sha256): another configuration"
                " than that of the run that waits for the shards; start that run again"
            )
        return cls(root, name, version, run.identity, mirror), run.config

    @property
    def run_id(self) -> str:
        """The run's identity, 64 hex digits."""
        return run_id_of(self.identity)

    @property
    def work(self) -> Path:
        return self.root / self.name / ".work" / self.version

    @property
    def published(self) -> Path:
        return self.root / self.name / self.version

    @property
    def latest(self) -> Path:
        return self.root / self.name / LATEST

    @property
    def refused(self) -> Path:
        return self.root / "refused" / self.name / self.version

    @property
    def staged(self) -> Path:
        return self.work / "staged"

    @property
    def plan(self) -> Path:
        return self.work / "plan.json"

    @property
    def shards(self) -> Path:
        return self.work / "shards"

    @property
    def quarantine(self) -> Path:
        return self.work / "quarantine.jsonl"

    @property
    def runs(self) -> Path:
        return self.work / RUNS

    def engine_lock(self, name: str) -> Path:
        """Return the lock that an engine's process holds as long as it can write rows (OWN_ENGINE: the run's own)."""
        return self.work / f"{name}.lock"

    def engine_log(self, name: str) -> Path:
        """Return the log of an engine's process: what it, vLLM and torch print."""
        return self.work / f"{name}.log"

    def shard(self, index: int) -> ShardFolder:
        """Return the folder of a shard, counted from 0."""
        return ShardFolder(self.shards / f"{index:05d}", self.mirror)

    def ended_shards(self) -> set[int]:
        """Return the shards that are complete or given up, here or on another machine, by one listing."""
        if self.mirror is not None:
            names = list(self.mirror.listing(self.shards))
        else:
            names = [f"{path.parent.name}/{path.name}" for path in self.shards.glob("*/*.json")]
        return {int(name[:5]) for name in names if name[6:] in (SUMMARY, FAILURE) and name[:5].isdecimal()}

    def address(self, path: Path) -> str:
        """Return a path of this folder as users find it: itself, or its URL."""
        return str(path) if self.mirror is None else self.mirror.address(path)

    def upload(self, *files: Path) -> None:
        """Copy written files to the object store, if there is one."""
        if self.mirror is not None:
            for file in files:
                self.mirror.push(file)

    def upload_shards(self, check: Callable[[], None]) -> None:
        """Copy the planned shards to the object store, if there is one, and remove what an earlier plan left there.

        `check` raises when this process has lost the run's lock: another one may be sampling them.
        """
        if self.mirror is None:
            return
        check()
        self.mirror.push_tree(self.shards)
        for name in self.mirror.listing(self.shards):
            if not (self.shards / name).exists():
                check()
                self.mirror.remove(self.shards / name)

    def upload_dataset(self, folder: Path, check: Callable[[], None]) -> None:
        """Copy a dataset to the object store, if there is one; `check` raises when the run's lock is lost.

        A published one stays as another process of this run has published it meanwhile; a refused one is replaced.
        """
        if (dataset := self._stored(folder)) is None:
            return
        assert self.mirror is not None
        check()
        (self.work / UPLOADING).touch()
        self.mirror.write(self.work / UPLOADING, b"")  # from now on the objects at the dataset's URL are this run's
        if folder == self.refused:
            dataset.replace(check)
        elif not dataset.create(check) and (stored := dataset.read()) is not None:
            self.check_identity(folder, stored)
        dataset.tidy(check)

    def tidy(self, check: Callable[[], None]) -> None:
        """Finish what a crash right after the publication to an object store left undone."""
        if (dataset := self._stored(self.published)) is not None:
            dataset.tidy(check)

    def download(self, folder: Path) -> None:
        """Copy a dataset from the object store, if there is one."""
        if (dataset := self._stored(folder)) is not None:
            dataset.pull()

    def _stored(self, folder: Path) -> StoredDataset | None:
        if self.mirror is None:
            return None
        from tasks.store.stored_dataset import StoredDataset  # s3fs takes half a second to import

        return StoredDataset(self.mirror, folder)

    def write_run(self, config: PipelineConfig, libraries: dict[str, str]) -> None:
        """Write run.json: the identity, configuration and libraries of the run that owns the work folder."""
        run = {"run_id": self.run_id, "identity": self.identity, "config": config.model_dump(mode="json")}
        write_json(self.work / "run.json", {**run, "libraries": libraries})
        self.upload(self.work / "run.json")

    def was_begun(self) -> bool:
        """Return whether the work folder holds a run's work, not only this process's lock."""
        return (self.work / "run.json").exists()

    def find_published(self) -> dict[str, Any] | None:
        """Return the manifest of this run's published dataset, None when there is none.

        Raises OutputError when the folder holds another run's dataset, something else, or a damaged dataset.
        """
        stored = self._stored(self.published)
        manifest = read_manifest(self.published) if stored is None else stored.read()
        if manifest is None:
            if self._is_foreign(self.published):
                address = self.address(self.published)
                raise OutputError(f"{address} holds no {MANIFEST}; move it away or choose another version")
            return None
        self.check_identity(self.published, manifest)
        damaged = _damages(self.published, manifest) if stored is None else stored.damages(manifest)
        if damaged:
            raise OutputError(
                f"{damaged[0]} is not what {MANIFEST} lists; remove {self.address(self.published)} to produce it again"
            )
        return manifest

    def check_refused(self) -> None:
        """Raise OutputError when something else than this run's dataset lies where a refused one goes."""
        owner = read_manifest(self.refused)
        if owner is not None:
            self.check_identity(self.refused, owner)
        elif self._is_foreign(self.refused):
            raise OutputError(
                f"{self.address(self.refused)} holds no {MANIFEST}, so it is no dataset that was refused here; move"
                " it away, then run the same command again"
            )

    def _is_foreign(self, folder: Path) -> bool:
        """Return whether a dataset's folder without a manifest holds anything but this run's interrupted upload."""
        if self.mirror is None:
            return folder.exists()
        return bool(self.mirror.listing(folder)) and not self.mirror.exists(self.work / UPLOADING)

    def point_latest(self) -> None:
        """Point `latest`, a link or an object that holds the version's name, to this version."""
        if self.mirror is not None:
            self.mirror.write(self.latest, f"{self.version}\n".encode())
            return
        link = self.latest.with_name(f".{self.latest.name}-{os.getpid()}")
        link.unlink(missing_ok=True)
        link.symlink_to(self.version, target_is_directory=True)
        os.replace(link, self.latest)
        sync(self.latest.parent)

    def remove_work(self) -> None:
        """Remove the work folder, after the dataset is published."""
        if self.mirror is not None:
            self.mirror.remove(self.work)
        shutil.rmtree(self.work, ignore_errors=True)
        with suppress(OSError):  # it may hold the work of another version
            self.work.parent.rmdir()

    def check_identity(self, folder: Path, owner: dict[str, Any]) -> None:
        """Raise OutputError when `owner`, the run.json or manifest of a folder, names another run than this one."""
        if owner.get("run_id") == self.run_id:
            return
        identity = owner.get("identity")  # a foreign file's may be anything
        differing = "; ".join(differing_keys(identity if isinstance(identity, dict) else {}, self.identity))
        raise OutputError(
            f"{self.address(folder)} belongs to another configuration ({differing}); choose another publish.version, or"
            " remove that folder"
        )


def _damages(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the files of a local dataset that are missing, or not as the manifest lists them."""
    files = {folder / file.path: file.sha256 for file in listed_files(manifest, str(folder / MANIFEST))}
    return [str(path) for path, sha256 in files.items() if not path.is_file() or sha256_of(path) != sha256]


def _open_root(root: str, options: Mapping[str, Any] | None) -> tuple[Path, Mirror | None]:
    """Return the local folder of publish.root, with its mirror if that is a URL."""
    if "://" not in root:
        return Path(root).expanduser().resolve(), None  # a link is followed once, here
    from tasks.store.mirror import Mirror  # s3fs takes half a second to import

    local = process_scratch()
    return local, Mirror(root, local, options)
