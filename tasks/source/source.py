"""A row source: local files or a streamed dataset of the Hugging Face Hub."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sampling.errors import SourceError
from tasks.config import SourceConfig
from tasks.source.readers import FORMATS, Rows, SourceRow, format_of, one_line, read_rows

FORMAT_NAMES = f"{', '.join(FORMATS)}, each also with .gz"
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Source:
    """An opened source; each call of `rows` starts a new stream."""

    files: tuple[str, ...]
    fingerprint: str  # 32 hex digits of the content and the limit, independent of the files' names
    rows: Callable[[], Rows]


def open_source(config: SourceConfig) -> Source:
    """Find the files or dataset of `config` and compute their fingerprint. Raises SourceError if there are none."""
    if config.hub is not None:
        return _open_hub(config, config.hub)
    assert config.path is not None
    patterns = (config.path,) if isinstance(config.path, str) else config.path
    if not patterns:
        raise SourceError("source.path is an empty list; name at least one file")
    found = {path.resolve(): path for pattern in patterns for path in _find(pattern)}
    files = tuple(found.values())  # each once, even if two patterns match it
    return Source(
        files=tuple(str(path) for path in files),
        fingerprint=_digest([str(config.limit), *(f"{format_of(path)} {_file_digest(path)}" for path in files)]),
        rows=lambda: (row for path in files for row in read_rows(path)),
    )


def _find(pattern: str) -> list[Path]:
    """Return the sorted files that a path, a folder or a glob stands for."""
    path = Path(pattern).expanduser()
    if path.is_file():
        if format_of(path) is None:
            raise SourceError(f"source.path {pattern!r} has no format known: {FORMAT_NAMES}")
        return [path]
    if path.is_dir():
        visible = (file for file in path.rglob("*") if not any(p.startswith(".") for p in file.relative_to(path).parts))
        files = _data_files(visible)
        counts = Counter(format_of(file) for file in files)
        if len(counts) > 1:  # a README.txt or manifest.json beside the data is not rows
            found = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
            raise SourceError(
                f"source.path {pattern!r} is a folder of several formats ({found}); name one with a glob such as "
                f"'{path}/**/*.{max(counts, key=lambda name: counts[name])}*'"
            )
        if not files:
            raise SourceError(f"source.path {pattern!r} is a folder without data files; looked for {FORMAT_NAMES}")
        return files
    if glob.has_magic(pattern):
        files = _data_files(Path(match) for match in glob.iglob(str(path), recursive=True))
        if not files:
            raise SourceError(
                f"source.path {pattern!r} matches no data file in {os.getcwd()}; looked for {FORMAT_NAMES}"
            )
        return files
    raise SourceError(f"source.path {pattern!r} does not exist; looked for {path.absolute()}")


def _data_files(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if format_of(path) is not None and path.is_file())


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error


def _digest(parts: list[str]) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _open_hub(config: SourceConfig, hub: str) -> Source:
    """Open a dataset of the Hub as a stream, without a local copy."""
    import datasets  # takes 2 to 3 s; local files do not need it
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError

    revision = config.revision
    try:  # pin a branch to its commit, which a resumed run must find again
        if not COMMIT.fullmatch(revision or ""):
            revision = HfApi().dataset_info(hub, revision=revision, timeout=10).sha
    except HfHubHTTPError as error:
        raise SourceError(f"source.hub {hub!r} is not readable on the Hub: {one_line(error)}") from error
    except Exception as error:
        if not (is_offline_mode() or Path(hub).is_dir()):  # a copy here is read under the given revision
            raise SourceError(
                f"source.hub {hub!r}: the Hub does not answer, so the commit of its revision {revision or 'main'!r} is"
                f" not known ({one_line(error)}); try again, or give a commit as source.revision"
            ) from error
    try:
        stream = datasets.load_dataset(hub, config.subset, split=config.split, revision=revision, streaming=True)
    except Exception as error:  # datasets raises ValueError, FileNotFoundError, ConnectionError and its own types
        if is_offline_mode() and isinstance(error, OSError):  # ConnectionError, FileNotFoundError
            raise SourceError(
                f"source.hub {hub!r} is not in the local cache and HF_HUB_OFFLINE is set; unset it, or give a "
                f"local copy as source.path ({one_line(error)})"
            ) from error
        raise SourceError(f"source.hub {hub!r} cannot be opened: {one_line(error)}") from error

    def rows() -> Iterator[SourceRow]:
        try:
            for number, fields in enumerate(stream, start=1):
                yield SourceRow(f"{hub}:{number}", fields)
        except Exception as error:
            raise SourceError(f"source.hub {hub!r} stopped in mid-stream: {one_line(error)}") from error

    identity = [hub, config.subset, config.split, revision, config.limit]
    return Source((f"hf://datasets/{hub}",), _digest([str(part) for part in identity]), rows)
