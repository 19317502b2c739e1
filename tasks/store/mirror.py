"""A mirror of a local folder in an object store.

The store is authoritative, the local folder a cache: files are pushed before they take effect, and pulled only if the
local folder lacks them. Files are immutable, except for a few small ones, which `refresh` downloads again.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.store.object_store import PATIENCE_S, Store

NUM_THREADS = 8  # at 30 ms per request, 1,000 small files take 4 s instead of 30 s
PARTIAL = ".fetching"  # folder of partial downloads in the local folder's root, so that a rename is atomic


class Mirror:
    """A local folder paired with a URL; every path argument is below `local`.

    Thread-safe; pickles to a spawned process. Every method raises OutputError if the store refuses, or has not
    responded for `patience_s` (tasks/store/object_store.py), and OSError if the local disk fails.
    """

    def __init__(
        self, url: str, local: Path, options: Mapping[str, Any] | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        """Pair `local` with `url`, s3://bucket/prefix, without a request; `options` are s3fs's."""
        self.local = local
        self.store = Store(url, options, patience_s)

    def __repr__(self) -> str:
        return f"Mirror({self.store.url!r}, {str(self.local)!r})"

    def name(self, path: Path) -> str:
        """Return a local path's object name."""
        name = path.relative_to(self.local).as_posix()
        return "" if name == "." else name

    def address(self, path: Path) -> str:
        """Return a local path's URL."""
        return self.store.address(self.name(path))

    def push(self, path: Path) -> None:
        """Upload a local file, atomically."""
        self.store.upload(path, self.name(path))

    def push_tree(self, folder: Path) -> None:
        """Upload every file of a folder."""
        self.push_as({path: path for path in sorted(folder.rglob("*")) if path.is_file()})

    def push_as(self, files: Mapping[Path, Path]) -> None:
        """Upload local files, each to the place of another path."""
        _in_parallel(lambda path: self.store.upload(path, self.name(files[path])), files)

    def pull(self, folder: Path, wanted: Callable[[str], bool] | None = None) -> list[Path]:
        """Download files that are missing locally or differ in size; return their paths.

        `wanted` filters by the name relative to the folder. A file gets its name once it is complete.
        """
        missing = [
            folder / name
            for name, size in self.listing(folder).items()
            if (wanted is None or wanted(name)) and _size(folder / name) != size
        ]
        self.pull_as({path: path for path in missing})
        return missing

    def pull_as(self, files: Mapping[Path, Path]) -> None:
        """Download the files at the keys' places to the values'."""

        def download(path: Path) -> None:
            with self._replacing(files[path]) as temporary:
                self.store.download(self.name(path), temporary)

        _in_parallel(download, files)

    def refresh(self, path: Path) -> bool:
        """Make a small local file equal to the store's, or remove it if the store has none; return whether it has."""
        data = self.read(path)
        if data is None:
            path.unlink(missing_ok=True)
            return False
        with self._replacing(path) as temporary:
            temporary.write_bytes(data)
        return True

    def exists(self, path: Path) -> bool:
        """Return whether the store holds this file; for a folder, see `listing`."""
        return self.store.size(self.name(path)) is not None

    def listing(self, folder: Path) -> dict[str, int]:
        """Return the sizes in bytes of all stored files under a folder, keyed by their names relative to it."""
        return self.store.listing(self.name(folder))

    def copy(self, source: Path, target: Path) -> None:
        """Copy a file inside the store, atomically."""
        self.store.copy(self.name(source), self.name(target))

    def remove(self, path: Path) -> None:
        """Remove a file or a folder from the store only, if it is there."""
        self.store.remove(self.name(path))

    def read(self, path: Path) -> bytes | None:
        """Read a small file from the store, None if there is none, without touching the local one."""
        stored = self.store.read(self.name(path))
        return None if stored is None else stored.data

    def write(self, path: Path, data: bytes) -> None:
        """Write a small file to the store only, atomically."""
        self.store.write(self.name(path), data)

    @contextmanager
    def _replacing(self, path: Path) -> Iterator[Path]:
        """Yield a temporary file, renamed to `path` if the block succeeds, else removed."""
        (self.local / PARTIAL).mkdir(parents=True, exist_ok=True)
        temporary = self.local / PARTIAL / uuid.uuid4().hex  # unique: two threads may download one file
        try:
            yield temporary
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _in_parallel(work: Callable[[Path], None], paths: Iterable[Path]) -> None:
    """Call `work` for every path; start none after an error, because each would wait for the store again."""
    failed = threading.Event()

    def unless_failed(path: Path) -> None:
        if failed.is_set():
            return
        try:
            work(path)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="mirror") as pool:
        list(pool.map(unless_failed, paths))
