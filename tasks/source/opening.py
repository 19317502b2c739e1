"""An opened file, unpacked where it is compressed, read in bounded pieces."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from sampling.bounds import Bounds
from sampling.errors import SourceError

CHUNK_BYTES = 1 << 20
FREE_BYTES = 64 << 20  # unpacked, before the ratio counts: a short file of equal rows is honest
XZ_BYTES = (
    128 << 20
)  # of memory; its strongest preset needs 65 MiB, a file may ask for 4 GiB. zstd takes 128 MiB at most


class _Xz(io.RawIOBase):
    """The unpacked bytes of one or more xz streams; lzma.open has no bound on memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._stream = lzma.LZMADecompressor(memlimit=XZ_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        while True:
            rest = b""
            if self._stream.eof:
                rest = self._stream.unused_data.lstrip(b"\0") or self._file.read(CHUNK_BYTES).lstrip(b"\0")
                if not rest:
                    return 0
                self._stream = lzma.LZMADecompressor(memlimit=XZ_BYTES)
            elif self._stream.needs_input and not (rest := self._file.read(CHUNK_BYTES)):
                raise EOFError("the compressed file ended before its end-of-stream marker was reached")
            if data := self._stream.decompress(rest, len(into)):
                into[: len(data)] = data
                return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lambda path: io.BufferedReader(_Xz(path)),
    ".zst": lambda path: io.BufferedReader(pa.CompressedInputStream(str(path), "zstd")),
}
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)  # what they raise on a broken file


class Unpacked:
    """The count of what a compressed or columnar file unpacks to."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._path, self._bounds = path, bounds
        self._file_bytes = path.stat().st_size
        self._num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Count further bytes. Raises SourceError beyond the bounds."""
        self._num_bytes += num_bytes
        bounds = self._bounds
        if self._num_bytes > bounds.unpacked_bytes:
            key = f"unpacked_bytes ({bounds.unpacked_bytes})"
        elif self._num_bytes > max(FREE_BYTES, self._file_bytes * bounds.unpacked_ratio):
            key = f"unpacked_ratio ({bounds.unpacked_ratio})"
        else:
            return
        raise SourceError(
            f"{self._path}, a file of {self._file_bytes} bytes, unpacks to {self._num_bytes} or more, above "
            f"bounds.{key}; raise the bound if the file is to be trusted"
        )


class _Counted(io.RawIOBase):
    """The unpacked bytes of a file, counted."""

    def __init__(self, file: BinaryIO, unpacked: Unpacked) -> None:
        self._file, self._unpacked = file, unpacked

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(into))
        self._unpacked.add(len(data))
        into[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_file(path: Path, bounds: Bounds) -> BinaryIO:
    """Open a file's bytes, unpacked as its suffix says; they raise SourceError beyond `bounds`."""
    if (opener := OPENERS.get(path.suffix.lower())) is None:
        return path.open("rb")
    return io.BufferedReader(_Counted(opener(path), Unpacked(path, bounds)), CHUNK_BYTES)


def open_seekable(path: Path, bounds: Bounds) -> BinaryIO:
    """Open a file that is not read from its start; a compressed one is unpacked to disk. Raises SourceError."""
    if path.suffix.lower() not in OPENERS:
        return path.open("rb")
    with ExitStack() as stack, open_file(path, bounds) as file:
        unpacked = stack.enter_context(tempfile.TemporaryFile())
        shutil.copyfileobj(file, unpacked, CHUNK_BYTES)
        stack.pop_all()  # it stays open
    unpacked.seek(0)
    return cast(BinaryIO, unpacked)


def lines(file: BinaryIO, bounds: Bounds) -> Iterator[tuple[int, bytes | None]]:
    """Yield every line with its number from 1; None for one longer than `bounds.line_bytes`, which is not held."""
    number = 0
    while line := file.readline(bounds.line_bytes + 1):
        number += 1
        if len(line) <= bounds.line_bytes or line.endswith(b"\n"):
            yield number, line
            continue
        del line
        while (rest := file.readline(CHUNK_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield number, None
