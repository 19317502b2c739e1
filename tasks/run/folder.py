"""The folder of a run: where its work lies, what it has published."""

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
from tasks.store.durable import read_json, sha256_of, sync, write_json
from tasks.store.scratch import process_scratch

if TYPE_CHECKING:
    from tasks.store.mirror import Mirror

LATEST, MANIFEST = "latest", "manifest.json"
UPLOADING = "keeping"  # says that the run's dataset is on its way to the object store
OWN_ENGINE = "engine"
RUNS = "runs"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The places of one run.

    <root>/<name>/.work/<version>/   run.json, plan.json, quarantine.jsonl, engine.log, lock, shards/, runs/, staged/
    <root>/<name>/<version>/         the published dataset
    <root>/refused/<name>/<version>/ the dataset that the gate refused

    Where publish.root is an object store's URL, <root> is a folder of this process, and the store is the truth: what
    counts is copied there before it counts (`keep`), and what is not there is fetched.
    """

    root: Path
    name: str
    version: str
    identity: Identity
    mirror: Mirror | None = field(default=None, compare=False)

    @classmethod
    def of(cls, config: PipelineConfig, identity: Identity, options: Mapping[str, Any] | None = None) -> RunFolder:
        """The folder of a configuration's run; the version defaults to 12 digits of the run's identity.

        `options` are an object store's, such as its keys.
        """
        version = config.publish.version or run_id_of(identity)[:12]
        if version == LATEST:
            raise OutputError(f"publish.version {LATEST!r} is the name of the link; choose another version")
        root, mirror = _open_root(config.publish.root, options)
        return cls(root, config.name, version, identity, mirror)

    @classmethod
    def at(cls, work: str, options: Mapping[str, Any] | None = None) -> tuple[RunFolder, PipelineConfig]:
        """The run that is at work in a folder or at a URL, with its configuration.

        Raises OutputError when there is none.
        """
        if work.count("/") < 4:
            raise OutputError(f"{work!r} is no run's work folder: <root>/<name>/.work/<version>")
        place, name, _, version = work.rstrip("/").rsplit("/", 3)
        root, mirror = _open_root(place, options)
        path = root / name / ".work" / version
        if mirror is not None:
            mirror.pull(path, is_of_the_run)
        run = read_json(path / "run.json")
        if run is None:
            raise OutputError(
                f"{work} holds no run.json on {socket.gethostname()}; mount the run's publish.root there at the same"
                " path, or start the run first"
            )
        return cls(root, name, version, run["identity"], mirror), PipelineConfig.model_validate(run["config"])

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
    def shards(self) -> Path:
        """A folder for each shard."""
        return self.work / "shards"

    @property
    def quarantine(self) -> Path:
        """One JSON line a row that could not be planned."""
        return self.work / "quarantine.jsonl"

    @property
    def runs(self) -> Path:
        """What the runs of `shards.deployment` say of themselves."""
        return self.work / RUNS

    def engine_lock(self, name: str) -> Path:
        """Held by an engine's process for as long as it can write rows; the run's own engine is `engine`."""
        return self.work / f"{name}.lock"

    def engine_log(self, name: str) -> Path:
        """What vLLM, torch, the engine's process print."""
        return self.work / f"{name}.log"

    def shard(self, index: int) -> ShardFolder:
        """The folder of a shard, counted from 0."""
        return ShardFolder(self.shards / f"{index:05d}", self.mirror)

    def ended_shards(self) -> set[int]:
        """Shards that are complete or given up, here or on another machine; one look at all of them."""
        if self.mirror is not None:
            names = list(self.mirror.listing(self.shards))
        else:
            names = [f"{path.parent.name}/{path.name}" for path in self.shards.glob("*/*.json")]
        return {int(name[:5]) for name in names if name[6:] in (SUMMARY, FAILURE)}

    def address(self, path: Path) -> str:
        """Where a path of this folder is for everybody: itself, or its URL."""
        return str(path) if self.mirror is None else self.mirror.address(path)

    def upload(self, *files: Path) -> None:
        """Make files count that are written: copy them to the object store, where there is one."""
        if self.mirror is not None:
            for file in files:
                self.mirror.push(file)

    def upload_tree(self, folder: Path) -> None:
        """The same for a whole folder, in the place of what was there."""
        if self.mirror is not None:
            self.mirror.remove(folder)
            self.mirror.push_tree(folder)

    def upload_dataset(self, folder: Path, check: Callable[[], None]) -> None:
        """The same for a dataset, which exists once its manifest does; `check` raises when the run is not locked."""
        if self.mirror is None:
            return
        check()
        (self.work / UPLOADING).touch()
        self.mirror.write(self.work / UPLOADING, b"")  # what lies at the dataset's place from now on is this run's
        self.mirror.remove(folder)
        self.mirror.push_tree(folder, MANIFEST, check)

    def download(self, folder: Path) -> None:
        """Get all of a folder, where it is in an object store."""
        if self.mirror is not None:
            self.mirror.pull(folder)

    def write_run(self, config: PipelineConfig, libraries: dict[str, str]) -> None:
        """Say whose work folder this is."""
        run = {"run_id": self.run_id, "identity": self.identity, "config": config.model_dump(mode="json")}
        write_json(self.work / "run.json", {**run, "libraries": libraries})
        self.upload(self.work / "run.json")

    def was_begun(self) -> bool:
        """Whether the work folder holds a run's work, not only this process's lock."""
        return (self.work / "run.json").exists()

    def find_published(self) -> dict[str, Any] | None:
        """The manifest of this run's published dataset, or None when there is none.

        Raises OutputError when the folder holds another run's dataset, something else, or a damaged dataset.
        """
        if self.mirror is not None:  # what an upload that was interrupted has left there is no dataset yet
            if not self.mirror.refresh(self.published / MANIFEST):
                if self.mirror.listing(self.published) and not self.mirror.exists(self.work / UPLOADING):
                    raise self._no_manifest()
                return None
        elif not self.published.exists():
            return None
        manifest: dict[str, Any] | None = read_json(self.published / MANIFEST)
        if manifest is None:
            raise self._no_manifest()
        self.check_identity(self.published, manifest)
        sizes = {} if self.mirror is None else self.mirror.listing(self.published)
        for file in manifest["files"]:
            path = self.published / file["path"]
            # A store has proved each file's checksum when it took it.
            is_whole = (
                sizes.get(file["path"]) == file["num_bytes"]
                if self.mirror is not None
                else path.is_file() and sha256_of(path) == file["sha256"]
            )
            if not is_whole:
                raise OutputError(
                    f"{self.address(path)} is not what manifest.json lists (sha256 {file['sha256'][:12]}…); remove"
                    f" {self.address(self.published)} to produce it again"
                )
        return manifest

    def _no_manifest(self) -> OutputError:
        place = self.address(self.published)
        return OutputError(f"{place} holds no manifest.json; move it away or choose another version")

    def point_latest(self) -> None:
        """Make `latest` this version: a link, or an object that holds the version's name."""
        if self.mirror is not None:
            self.mirror.write(self.latest, f"{self.version}\n".encode())
            return
        link = self.latest.with_name(f".{self.latest.name}-{os.getpid()}")
        link.unlink(missing_ok=True)
        link.symlink_to(self.version, target_is_directory=True)
        os.replace(link, self.latest)
        sync(self.latest.parent)

    def remove_work(self) -> None:
        """Remove the work folder, after its dataset was published."""
        if self.mirror is not None:
            self.mirror.remove(self.work)
        shutil.rmtree(self.work, ignore_errors=True)
        with suppress(OSError):  # another version may be at work there
            self.work.parent.rmdir()

    def check_identity(self, folder: Path, owner: dict[str, Any]) -> None:
        """Raises OutputError when what names its owner in a folder names another run than this one."""
        if owner["run_id"] == self.run_id:
            return
        differing = "; ".join(differing_keys(owner["identity"], self.identity))
        raise OutputError(
            f"{self.address(folder)} belongs to another configuration ({differing}); choose another publish.version, or"
            " remove that folder"
        )


def _open_root(root: str, options: Mapping[str, Any] | None) -> tuple[Path, Mirror | None]:
    """The local folder that stands for publish.root, with its mirror where that is a URL."""
    if "://" not in root:
        return Path(root).expanduser().resolve(), None  # the root itself may be a link, which is followed once, here
    from tasks.store.mirror import Mirror  # s3fs takes half a second to import

    local = process_scratch()
    return local, Mirror(root, local, options)


def is_of_the_run(name: str) -> bool:
    """What says whose work folder it is and how far the run is."""
    return "/" not in name
