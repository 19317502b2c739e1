"""The manifest of a dataset, which lists its files: with it the dataset exists."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from sampling.errors import OutputError
from tasks.store.durable import read_json, sha256_of
from tasks.store.names import check_name

MANIFEST = "manifest.json"
DIGITS = 12  # of a digest in a name


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that a manifest lists."""

    path: str  # relative to the dataset's folder
    num_bytes: int
    sha256: str

    @classmethod
    def of(cls, root: Path, path: Path) -> ListedFile:
        """Describe a file under a dataset's folder."""
        return cls(path.relative_to(root).as_posix(), path.stat().st_size, sha256_of(path))

    @property
    def object_name(self) -> str:
        """Return its name in an object store, which holds its digest: no two contents share one."""
        path = PurePosixPath(self.path)
        return str(path.with_name(f"{path.stem}-{self.sha256[:DIGITS]}{path.suffix}"))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a folder's manifest, None if there is none, or another program's that is no JSON object.

    Raises OutputError if it cannot be read.
    """
    manifest = read_json(folder / MANIFEST)
    return manifest if isinstance(manifest, dict) else None


def listed_files(manifest: Mapping[str, Any], origin: str) -> list[ListedFile]:
    """Return the files of a manifest: data ("files"), then what lies beside them ("documents").

    Raises OutputError, naming `origin`, for an entry that is none, or whose name would leave the dataset's folder.
    """
    files = []
    for entry in (*_entries(manifest, "files", origin), *_entries(manifest, "documents", origin)):
        values = entry if isinstance(entry, dict) else {}
        path, num_bytes, sha256 = values.get("path"), values.get("num_bytes"), values.get("sha256")
        if not (isinstance(path, str) and isinstance(num_bytes, int) and _is_digest(sha256)):
            raise OutputError(
                f"{origin} lists {str(entry)[:100]!r}, which is no path with num_bytes and sha256; remove the dataset"
                " to produce it again, or ask who wrote it"
            )
        files.append(ListedFile(check_name(path, origin), num_bytes, sha256))
    return files


def _entries(manifest: Mapping[str, Any], key: str, origin: str) -> list[Any]:
    entries = manifest.get(key, [])
    if not isinstance(entries, list):
        raise OutputError(f"{origin}: {key} is a {type(entries).__name__}, where a list of files is needed")
    return entries


def _is_digest(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
