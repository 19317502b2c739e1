"""A dataset in an object store: objects that nothing replaces, and a manifest that is created last.

Two runs may publish the same dataset at once, when the first was asleep and lost its lease. Neither can harm the other:
an object's name holds its content's digest, the manifest is created by a conditional write, which one of them wins,
and only objects that the stored manifest does not list are ever removed. A manifest is never removed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sampling.errors import OutputError
from tasks.store.durable import read_json
from tasks.store.manifest import DIGITS, MANIFEST, ListedFile, listed_files, read_manifest
from tasks.store.mirror import Mirror

# Copied under their plain names, too, for people: always the bytes that the stored manifest lists.
PAGES = re.compile(r"README\.md|report\.html|data_docs/.*")
OBJECT_NAME = re.compile(rf".*-[0-9a-f]{{{DIGITS}}}(\.\w+)?")
Check = Callable[[], None]  # raises OutputError when the lease was lost


class StoredDataset:
    """The objects of one dataset, and its local folder."""

    def __init__(self, mirror: Mirror, folder: Path) -> None:
        """`folder` is the local one, below `mirror.local`."""
        self._mirror, self._folder = mirror, folder
        self._address = mirror.address(folder)

    def read(self) -> dict[str, Any] | None:
        """Return the stored manifest, which the local one then equals; None, and no local one, if there is none."""
        return read_manifest(self._folder) if self._mirror.refresh(self._folder / MANIFEST) else None

    def create(self, check: Check) -> bool:
        """Upload the local dataset, its manifest last; return whether it was created, or had been by then.

        Then the stored manifest is another process's, and the local one is left as it is.
        """
        return self._upload(check, None)

    def replace(self, check: Check) -> None:
        """Upload the local dataset in place of an earlier one. Raises OutputError if that has changed meanwhile."""
        stored = self._mirror.store.read(self._mirror.name(self._folder / MANIFEST))
        if not self._upload(check, None if stored is None else stored.etag):
            raise OutputError(f"{self._address} was written by another run meanwhile; run the same command again")

    def tidy(self, check: Check) -> None:
        """Give the card and the reports their plain names, remove what the stored manifest does not list.

        `check` is called before each removal. Objects that this pipeline did not name stay.
        """
        if (manifest := self.read()) is None or "documents" not in manifest:
            return
        files = self._files(manifest)
        for file in files:
            if PAGES.fullmatch(file.path):
                self._mirror.copy(self._folder / file.object_name, self._folder / file.path)
        listed = {file.object_name for file in files}
        for name in self._mirror.listing(self._folder):
            if OBJECT_NAME.fullmatch(name) and name not in listed:
                check()
                self._mirror.remove(self._folder / name)

    def pull(self) -> bool:
        """Download the dataset, or what another program left there; return whether anything is there."""
        manifest = self.read()
        if manifest is None or "documents" not in manifest:  # of another program, or of dual-sampling 0.1
            return bool(self._mirror.pull(self._folder)) or manifest is not None
        self._mirror.pull_as(
            {self._folder / file.object_name: self._folder / file.path for file in self._files(manifest)}
        )
        return True

    def damages(self, manifest: dict[str, Any]) -> list[str]:
        """Return the addresses of the listed objects that are missing or differ in size."""
        sizes = self._mirror.listing(self._folder)
        has_digests = "documents" in manifest
        names = {file.object_name if has_digests else file.path: file for file in self._files(manifest)}
        return [f"{self._address}/{name}" for name, file in names.items() if sizes.get(name) != file.num_bytes]

    def _upload(self, check: Check, etag: str | None) -> bool:
        check()
        manifest = read_json(self._folder / MANIFEST)
        assert isinstance(manifest, dict)
        objects = {file.object_name: self._folder / file.path for file in self._files(manifest)}
        stored = self._mirror.listing(self._folder)
        self._mirror.push_as(
            {path: self._folder / name for name, path in objects.items() if stored.get(name) != path.stat().st_size}
        )
        check()
        data = (self._folder / MANIFEST).read_bytes()
        name = self._mirror.name(self._folder / MANIFEST)
        if self._mirror.store.write_if(name, data, etag) is not None:
            return True
        found = self._mirror.store.read(name)  # refused, or the response to the first try was lost
        return found is not None and found.data == data

    def _files(self, manifest: dict[str, Any]) -> list[ListedFile]:
        return listed_files(manifest, f"{self._address}/{MANIFEST}")
