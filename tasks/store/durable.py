"""Atomic, durable file writes: a file is complete under its name, or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sampling.errors import OutputError

# Of a JSON document that is read whole: a list of 100,000 files takes 20 MB, and as Python objects 20 times that.
MAX_DOCUMENT_BYTES = 64 << 20
T = TypeVar("T")
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_bytes(path: Path, data: bytes | memoryview, unique_temporary_name: bool = False) -> None:
    """Write a temporary file, fsync it, rename it to `path`, fsync the folder.

    All files of a folder share one temporary name, so that the next write overwrites what a crash left;
    `unique_temporary_name` gives the file its own, for a folder that several processes write to.
    """
    temporary = path.parent / (f".{path.name}.writing" if unique_temporary_name else ".writing")
    # Where others can write to the folder, a link of this name could lead to any file of this user.
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(path.parent)


def write_json(path: Path, value: Any, unique_temporary_name: bool = False) -> None:
    """Write a JSON document with `write_bytes`; NaN and infinities, which JSON lacks, are written as strings."""
    value = json.loads(json.dumps(value), parse_constant=str)
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), unique_temporary_name)


def read_json(path: Path) -> Any | None:
    """Return the document, None if there is none. Raises OutputError if it cannot be read, or is too large to be."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
        if len(data) > MAX_DOCUMENT_BYTES:
            raise ValueError(f"it has over {MAX_DOCUMENT_BYTES} bytes")
        return json.loads(data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{path} cannot be read ({error}); remove its folder to start over") from error


def read_as(kind: type[T], path: Path) -> T | None:
    """Return a JSON document as a dataclass, None if there is none. Raises OutputError if it is something else."""
    if (values := read_json(path)) is None:
        return None
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise OutputError(
            f"{path} is no {kind.__name__} ({where}: {first['msg']}); remove its folder to start over"
        ) from None


def make_private(folder: Path) -> None:
    """Create a folder for its user alone, or take over one that is.

    Raises OutputError for one of another user, which could hold links, or change what is read from it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise OutputError(
            f"{folder} belongs to another user, or others can write to it; remove it, or choose another publish.root"
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)


def sync(path: Path) -> None:
    """Fsync a file's content, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def output_errors(folder: Path) -> Iterator[None]:
    """Convert OSError, for a full disk or a folder that is not writable, to OutputError."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise  # of a closed terminal or Prefect's server, not of the folder
    except OSError as error:
        reason = (error.strerror or str(error)).splitlines()[0]
        if error.errno in DISK_FULL:
            message = f"{folder}: {reason}; finished rows are kept: free space, then run the same command again"
        else:
            message = f"{folder}: {reason}; choose another publish.root (--output) or make it writable"
        raise OutputError(message) from error
