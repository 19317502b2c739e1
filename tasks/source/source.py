"""A row source: local files or a streamed dataset of the Hugging Face Hub."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import yaml

from sampling.bounds import Bounds
from sampling.errors import SourceError
from sampling.links import outside
from tasks.config import SourceConfig
from tasks.source.columnar import end_idle, rows_of
from tasks.source.readers import FORMAT_NAMES, format_of, read_rows
from tasks.source.source_row import Rows, of_few_columns, one_line

if TYPE_CHECKING:
    from datasets import DatasetBuilder

# The splits that a file's or folder's name tells, by the words and separators that `datasets` looks for.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
SHARD = re.compile(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}")  # data/train-00000-of-00001.parquet
HUB_ROWS = 64  # of a streamed dataset, converted at a time
SAVED = {"dataset_dict.json", "dataset_info.json", "state.json"}  # beside the files of datasets' save_to_disk
COMMIT = re.compile(r"[0-9a-f]{40}")
CARDS = ("README.md", ".huggingface.yaml")  # of a dataset of the Hub: where `datasets` looks for its subsets' files
OUTSIDE = re.compile(r"^[/~\\]|::|://|(^|[/\\])\.\.([/\\]|$)")  # a path that may lead out of the dataset
# What `datasets` may read it with. Others open more than the file (HDF5 has links to other files) or run its code.
HUB_READERS = ("csv", "json", "parquet", "arrow", "text", "cache")


@dataclass(frozen=True, slots=True)
class Source:
    """An opened source; each call of `rows` starts a new stream."""

    files: tuple[str, ...]
    fingerprint: str  # 32 hex digits of the content and the limit, independent of the files' names
    rows: Callable[[], Rows]
    notes: tuple[str, ...] = ()  # what was found and is not read


def open_source(config: SourceConfig, bounds: Bounds | None = None) -> Source:
    """Find the files or dataset of `config` and compute their fingerprint. Raises SourceError if there are none."""
    bounds = bounds or Bounds()
    if config.hub is not None:
        return _open_hub(config, config.hub, bounds)
    assert config.path is not None
    patterns = (config.path,) if isinstance(config.path, str) else config.path
    if not patterns:
        raise SourceError("source.path is an empty list; name at least one file")
    notes: list[str] = []
    found = {os.path.realpath(path): path for pattern in patterns for path in _find(pattern, config, notes)}
    files = tuple(found.values())  # each once, even if two patterns match it
    for path in files:
        if not path.is_file():
            raise SourceError(f"{path} is no regular file: a pipe, a device, or a link that leads nowhere; remove it")
    return Source(
        files=tuple(str(path) for path in files),
        fingerprint=_digest([str(config.limit), *(f"{format_of(path)} {_file_digest(path)}" for path in files)]),
        rows=lambda: of_few_columns(_rows(files, bounds), bounds),
        notes=tuple(notes),
    )


def _rows(files: tuple[Path, ...], bounds: Bounds) -> Rows:
    try:
        for path in files:
            yield from read_rows(path, bounds)
    finally:
        end_idle()


def _find(pattern: str, config: SourceConfig, notes: list[str]) -> list[Path]:
    """Return the sorted files of the split that a path, a folder or a glob stands for."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        return _find_in_folder(pattern, path, config, notes)
    if config.subset is not None:
        raise SourceError(f"source.subset is for source.hub, or for a folder; source.path {pattern!r} is none")
    if path.is_file():
        found = {path: path.name}
    elif path.exists() or not glob.has_magic(pattern):
        problem = "is no regular file" if path.exists() else f"does not exist; looked for {path.absolute()}"
        raise SourceError(f"source.path {pattern!r} {problem}")
    else:
        fixed = Path(*path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])
        matches = (Path(match) for match in sorted(glob.iglob(str(path), recursive=True)))
        found = {match: str(match.relative_to(fixed)) for match in matches if not match.is_dir()}
        if not found:
            raise SourceError(f"source.path {pattern!r} matches no file in {os.getcwd()}; looked for {FORMAT_NAMES}")
        for match in found:
            _check_link(match, fixed)
    if unknown := [file for file in found if format_of(file) is None]:
        raise SourceError(f"source.path {pattern!r}: {_names(unknown)} has no format known: {FORMAT_NAMES}")
    return _of_split(pattern, found, config, notes)


def _find_in_folder(pattern: str, folder: Path, config: SourceConfig, notes: list[str]) -> list[Path]:
    if config.subset is not None and not (folder := folder / config.subset).is_dir():
        raise SourceError(f"source.subset {config.subset!r} is no folder in source.path {pattern!r}")
    visible = sorted(_walk(folder))
    known = [file for file in visible if format_of(file) is not None]
    if any(format_of(file) == "arrow" for file in known):
        known = [file for file in known if file.name not in SAVED and _is_saved(file)]
    counts = Counter(format_of(file) for file in known)
    if len(counts) > 1:  # a README.txt or manifest.json beside the data is not rows
        found = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        raise SourceError(
            f"source.path {pattern!r} is a folder of several formats ({found}); name one with a glob such as "
            f"'{folder}/**/*.{max(counts, key=lambda name: counts[name])}*'"
        )
    if not known:
        raise SourceError(f"source.path {pattern!r} is a folder without data files; looked for {FORMAT_NAMES}")
    if others := [file for file in visible if file not in known and file.name not in SAVED]:
        notes.append(f"not read: {_names(others)}, in no format known")
    return _of_split(pattern, {file: str(file.relative_to(folder)) for file in known}, config, notes)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that are not hidden."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*folders, *files]:  # a link to a folder is not entered: what it may lead to is here already
            _check_link(Path(parent, name), folder)
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _check_link(path: Path, folder: Path) -> None:
    """Raise SourceError if a file that was found in a folder lies elsewhere, by a link of whoever made the folder."""
    if real := outside(path, folder):
        raise SourceError(
            f"{path} is a link to {real}, outside {folder.absolute()}: no link is followed out of a source's folder; "
            "name that file in source.path, or copy it"
        )


def _is_saved(file: Path) -> bool:
    """Return whether an Arrow file is one of its folder's dataset: `datasets` keeps cache-….arrow beside them."""
    if not (state := file.with_name("state.json")).is_file():
        return True
    try:
        content = json.loads(state.read_bytes())
        names = {str(entry["filename"]) for entry in content["_data_files"]}
        is_whole = not content.get("_indices_files")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SourceError(f"{state} is not what datasets' save_to_disk writes: {one_line(error)}") from error
    if not is_whole:
        raise SourceError(f"{state} selects rows by an index; save the dataset anew after flatten_indices()")
    return file.name in names


def _of_split(pattern: str, files: Mapping[Path, str], config: SourceConfig, notes: list[str]) -> list[Path]:
    """Return the files of `source.split`; all of them where no name tells a split, or all tell the same one.

    `files`: each file's path from the folder that was asked for. Raises SourceError where that is not clear.
    """
    splits = {file: _split_of(name) for file, name in files.items()}
    told = sorted(set(filter(None, splits.values())))
    is_given = "split" in config.model_fields_set
    wanted = SPLIT_OF.get(config.split, config.split)
    if (not told and wanted == "train") or (len(told) < 2 and not is_given):
        return list(files)
    if wanted not in told:
        found = f"there are: {', '.join(told)}" if told else "no file's name tells its split"
        raise SourceError(f"source.path {pattern!r} has no split {config.split!r}; {found}")
    if unclear := [file for file, split in splits.items() if split is None]:
        raise SourceError(
            f"source.path {pattern!r}: some names tell a split ({', '.join(told)}), that of {_names(unclear)} does "
            "not; name the files of the split"
        )
    if rest := [file for file, split in splits.items() if split != wanted]:
        notes.append(f"not read: {_names(rest)}, of other splits than source.split ({config.split})")
    return [file for file, split in splits.items() if split == wanted]


def _split_of(name: str) -> str | None:
    """Return the split that a path tells, None if it tells none: its last part that does decides."""
    if shard := SHARD.search(name):
        return SPLIT_OF.get(shard[1], shard[1])
    words = re.split(r"[-._ 0-9/]", name)
    return next((SPLIT_OF[word] for word in reversed(words) if word in SPLIT_OF), None)


def _names(files: list[Path]) -> str:
    return ", ".join(map(str, files[:3])) + (f" and {len(files) - 3} more" if len(files) > 3 else "")


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error


def _digest(parts: list[str]) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _check_card(hub: str, revision: str | None) -> None:
    """Raise SourceError if a dataset's card names files outside of the dataset; `datasets` would ask for them."""
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData, hf_hub_download, is_offline_mode
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in CARDS:
        file = Path(hub, name)
        if not Path(hub).is_dir():
            if is_offline_mode():
                return  # what was prepared before is read, and no card
            try:
                file = Path(hf_hub_download(hub, name, repo_type="dataset", revision=revision))
            except LocalEntryNotFoundError:  # the Hub does not answer
                raise
            except EntryNotFoundError:
                continue
        if not file.is_file():
            continue
        is_yaml = name.endswith(".yaml")
        data = DatasetCardData(**(yaml.safe_load(file.read_text()) or {})) if is_yaml else DatasetCard.load(file).data
        for subset in MetadataConfigs.from_dataset_card_data(data).values():
            patterns = chain(
                [subset.get("data_dir") or ""], *sanitize_patterns(subset.get("data_files") or []).values()
            )
            for pattern in map(str, patterns):
                if OUTSIDE.search(pattern) or urlsplit(pattern).scheme:
                    raise SourceError(
                        f"source.hub {hub!r}: its {name} names {pattern!r:.200}, which is no file of the dataset: "
                        "nothing else is read for it; use a copy with a mended card, or another dataset"
                    )


def _check_builder(builder: DatasetBuilder, hub: str, revision: str | None) -> None:
    """Raise SourceError if what `datasets` would read lies outside of the dataset, or has a format of other files."""
    if (reader := type(builder).__module__.rpartition(".")[2]) not in HUB_READERS:
        raise SourceError(
            f"source.hub {hub!r} holds files that datasets reads as {reader!r}; this reads {', '.join(HUB_READERS)}: "
            "give a copy in one of them"
        )
    root = f"hf://datasets/{hub}@{revision}/"
    for file in map(str, chain(*(builder.config.data_files or {}).values())):
        if Path(hub).is_dir():
            _check_link(Path(file), Path(hub))
        elif not file.startswith(root) or OUTSIDE.search(file.removeprefix(root)):
            raise SourceError(f"source.hub {hub!r} names {file!r:.200}, which is not below {root}: it is not read")


def _open_hub(config: SourceConfig, hub: str, bounds: Bounds) -> Source:
    """Open a dataset of the Hub as a stream, without a local copy.

    `datasets` decodes it, in this process: rows above `bounds` are set aside, but only once it has decoded them.
    """
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
        _check_card(hub, revision)
        builder = datasets.load_dataset_builder(hub, config.subset, revision=revision)
        _check_builder(builder, hub, revision)
        stream = builder.as_streaming_dataset(split=config.split)
        stream = stream.with_format("arrow")  # a date after 9999 or an image becomes no Python object
    except SourceError:
        raise
    except Exception as error:  # datasets raises ValueError, FileNotFoundError, ConnectionError and its own types
        if is_offline_mode() and isinstance(error, OSError):  # ConnectionError, FileNotFoundError
            raise SourceError(
                f"source.hub {hub!r} is not in the local cache and HF_HUB_OFFLINE is set; unset it, or give a "
                f"local copy as source.path ({one_line(error)})"
            ) from error
        raise SourceError(f"source.hub {hub!r} cannot be opened: {one_line(error)}") from error

    def rows() -> Rows:
        number = 0
        try:
            for table in stream.iter(HUB_ROWS):
                for batch in table.to_batches():
                    yield from rows_of(batch, hub, number, bounds)
                    number += batch.num_rows
        except Exception as error:
            raise SourceError(f"source.hub {hub!r} stopped in mid-stream: {one_line(error)}") from error

    identity = [hub, config.subset, config.split, revision, config.limit]
    fingerprint = _digest([str(part) for part in identity])
    return Source((f"hf://datasets/{hub}",), fingerprint, lambda: of_few_columns(rows(), bounds))
