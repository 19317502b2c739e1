"""The copy of a local folder in an object store.

The store is the truth, the local folder is scratch: what counts is pushed before it counts, and a file is pulled only
where the local folder lacks it. Files are immutable, except for a few small ones, which `refresh` fetches anew.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tasks.store.object_store import PATIENCE_S, Store

NUM_THREADS = 8  # at 30 ms a request 1,000 small files take 4 s instead of 30
FETCHING = ".fetching"  # folder of half-fetched files, in the local folder's root: a rename moves none of them far

Item = TypeVar("Item")


class Mirror:
    """A local folder with its place in a store; every path is one below `local`.

    Used from any thread; a spawned process gets its own by pickle. Every method raises OutputError when the store
    refuses, or is gone for `patience_s` (tasks/store/object_store.py), OSError when the local disk does.
    """

    def __init__(
        self, url: str, local: Path, options: Mapping[str, Any] | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        """`local` stands for `url`, s3://bucket/prefix; `options` are s3fs's. Nothing is asked yet."""
        self.local = local
        self.store = Store(url, options, patience_s)

    def __repr__(self) -> str:
        return f"Mirror({self.store.url!r}, {str(self.local)!r})"

    def name(self, path: Path) -> str:
        """What a local path is called in the store."""
        name = path.relative_to(self.local).as_posix()
        return "" if name == "." else name

    def address(self, path: Path) -> str:
        """The URL of a local path."""
        return self.store.address(self.name(path))

    def push(self, path: Path) -> None:
        """Copy a local file to the store, where it is then whole, or as it was before when this raises."""
        self.store.upload(path, self.name(path))

    def push_tree(self, folder: Path, last: str | None = None, check: Callable[[], None] = lambda: None) -> None:
        """Copy every file of a folder; the one named `last`, relative to it, when all others are there.

        `check` is called before the last one, and may raise.
        """
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        final = [folder / last] if last is not None else []
        _in_parallel(self.push, [path for path in files if path not in final])
        for path in final:
            check()
            self.push(path)

    def pull(self, folder: Path, wanted: Callable[[str], bool] | None = None) -> list[Path]:
        """Fetch what the local folder lacks, or has in another size; the paths that were fetched.

        `wanted` is asked of each name relative to the folder. No file is under its name before it is whole.
        """
        lacking = [
            folder / name
            for name, size in self.listing(folder).items()
            if (wanted is None or wanted(name)) and _size(folder / name) != size
        ]
        _in_parallel(self._fetch, lacking)
        return lacking

    def refresh(self, path: Path) -> bool:
        """Make a small local file what the store holds, which may be nothing; whether there is something."""
        data = self.read(path)
        if data is None:
            path.unlink(missing_ok=True)
            return False
        temporary = self._temporary()
        temporary.write_bytes(data)
        self._put_in_place(temporary, path)
        return True

    def exists(self, path: Path) -> bool:
        """Whether the store holds this file; a folder is its files (see `listing`)."""
        return self.store.size(self.name(path)) is not None

    def listing(self, folder: Path) -> dict[str, int]:
        """Bytes of every file that the store holds below a folder, by their names relative to it."""
        return self.store.listing(self.name(folder))

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder, from the store alone; nothing there is no error."""
        self.store.remove(self.name(path))

    def read(self, path: Path) -> bytes | None:
        """What the store holds of a small file, None where it holds none; the local one is left as it is."""
        stored = self.store.read(self.name(path))
        return None if stored is None else stored.data

    def write(self, path: Path, data: bytes) -> None:
        """Write a small file to the store alone, where it is whole or as it was before."""
        self.store.write(self.name(path), data)

    def _fetch(self, path: Path) -> None:
        temporary = self._temporary()
        try:
            self.store.download(self.name(path), temporary)
            self._put_in_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _temporary(self) -> Path:
        (self.local / FETCHING).mkdir(parents=True, exist_ok=True)
        return self.local / FETCHING / uuid.uuid4().hex  # two threads may fetch one file

    def _put_in_place(self, temporary: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, path)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _in_parallel(work: Callable[[Item], None], items: Iterable[Item]) -> None:
    """The work of every item; after an error nothing more is begun, because each would wait for the store again."""
    failed = threading.Event()

    def unless_failed(item: Item) -> None:
        if failed.is_set():
            return
        try:
            work(item)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="mirror") as pool:
        for _ in pool.map(unless_failed, items):
            pass
