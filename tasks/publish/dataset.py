"""A dataset in a folder or an object store, opened for reading: published, refused or foreign."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from sampling.errors import OutputError, RefusedError, SourceError
from sampling.record import RECORD_SCHEMA
from tasks.config import PipelineConfig
from tasks.run.dataset_metadata import read_metadata
from tasks.run.folder import LATEST
from tasks.store.durable import sha256_of
from tasks.store.manifest import MANIFEST, read_manifest
from tasks.store.names import check_name
from tasks.store.scratch import process_scratch
from validations.limits import Limits
from validations.measure.metadata import DatasetMetadata, Quarantine

MAX_COUNT = 1 << 50  # of rows in a manifest, which may be hostile


@dataclass(frozen=True, slots=True)
class Dataset:
    """The files of a dataset, with its manifest and metadata."""

    address: str  # as the user gave it: a folder, or the URL that it was downloaded from
    path: Path
    files: list[Path]  # at least one; each has the columns of RECORD_SCHEMA
    manifest: dict[str, Any] | None  # None: made by another program
    metadata: DatasetMetadata

    @property
    def title(self) -> str:
        """Return `name version`, or the folder's name."""
        named = [str(value) for key in ("name", "version") if (value := (self.manifest or {}).get(key))]
        return " ".join(named) or self.path.name

    @property
    def limits(self) -> Limits:
        """Return the limits it was made with; the defaults for a foreign dataset."""
        config = (self.manifest or {}).get("config")
        try:
            return PipelineConfig.model_validate(config).validation
        except ValidationError:
            return Limits()

    def check_whole(self) -> None:
        """Raise RefusedError when the files differ from the manifest: no metric of them can be trusted."""
        if damages := self.damages():
            raise RefusedError(f"{self.address}: {'; '.join(damages)}")

    def damages(self) -> list[str]:
        """Return the differences between the files and the manifest, one line each."""
        manifest = self.manifest or {}
        listed = [entry for key in ("files", "documents") for entry in _entries(manifest, key)]
        if not listed:
            return []
        data = {str(path.relative_to(self.path)): path for path in self.files}
        beside = {str(path.relative_to(self.path)): path for path in self.path.rglob("*") if path.is_file()}
        damages, names = [], []
        for file in listed:
            name, digest = (file.get("path"), file.get("sha256")) if isinstance(file, dict) else (None, None)
            names.append(name)
            if not isinstance(name, str) or name not in beside:
                damages.append(f"{MANIFEST} lists {name!r}, which is not in the dataset")
            elif (found := sha256_of(beside[name])) != digest:
                damages.append(f"{name} has sha256 {found[:12]}…, {MANIFEST} lists {str(digest)[:12]}…")
        return damages + [f"{name} is not listed in {MANIFEST}" for name in data if name not in names]


def _entries(manifest: Mapping[str, Any], key: str) -> list[Any]:
    entries = manifest.get(key)
    return entries if isinstance(entries, list) else []


def open_dataset(location: str | Path, options: Mapping[str, Any] | None = None) -> Dataset:
    """Open a folder of Parquet files (data/*.parquet, else *.parquet), one Parquet file, or the s3:// URL of either.

    A URL is downloaded, with an object store's `options`, into a folder that is removed when this process ends. Raises
    SourceError when there is no Parquet file, when one cannot be read, or lacks a column.
    """
    if isinstance(location, str) and "://" in location:
        return _open(*_download(location, options))
    path = Path(location).expanduser()
    if path.is_dir():
        path = path.resolve()  # `latest` is a link; the title needs the version
    return _open(str(path), path)


def _download(url: str, options: Mapping[str, Any] | None) -> tuple[str, Path]:
    """Return the dataset's URL, `latest` resolved, with the local folder (or file) that holds a copy."""
    from tasks.store.mirror import Mirror  # s3fs takes half a second to import
    from tasks.store.stored_dataset import StoredDataset

    advice = "give a dataset's URL, s3://bucket/…/name/version"
    parent, _, name = url.rstrip("/").rpartition("/")
    if parent.endswith(":/"):
        raise SourceError(f"{url} is a whole bucket; {advice}")
    try:
        mirror = Mirror(parent, process_scratch(), options)
        path = mirror.local / name
        if name == LATEST and (data := mirror.read(path)) is not None:
            version = check_name(data.decode(errors="replace").strip(), url)
            if "/" in version:
                raise SourceError(
                    f"{url} should hold the name of a version, not {version[:40]!r}; give the version's own URL"
                )
            path = mirror.local / version
        if StoredDataset(mirror, path).pull():
            return mirror.address(path), path
        if mirror.exists(path):
            mirror.pull_as({path: path})
            return mirror.address(path), path
    except (OutputError, OSError) as error:  # OSError: a name that no file can have
        raise SourceError(first_line(error)) from error
    raise SourceError(f"nothing lies at {mirror.address(path)}; {advice}")


def _open(address: str, path: Path) -> Dataset:
    if path.is_file():
        path, files = path.parent, [path]
    elif path.is_dir():
        files = sorted(path.glob("data/*.parquet")) or sorted(path.glob("*.parquet"))
    else:
        raise SourceError(f"{address} is neither a folder nor a file; give a dataset's folder")
    if not files:
        raise SourceError(f"{address} holds no Parquet file, neither in data/ nor beside; give a dataset's folder")
    for file in files:
        _check_schema(file, _file_address(file, address, path))
    try:
        manifest = read_manifest(path)
    except OutputError as error:
        where = _file_address(path / MANIFEST, address, path)
        raise SourceError(f"{where} is no JSON document; move it away to judge the rest") from error
    metadata = replace(read_metadata(path), quarantine=_quarantine(manifest or {}))
    return Dataset(address, path, files, manifest, metadata)


def _quarantine(manifest: Mapping[str, Any]) -> Quarantine | None:
    """Return what the run left out, None where the manifest does not say, or is another program's."""
    with suppress(KeyError, TypeError, AttributeError, ValueError, OverflowError):
        reasons = {str(reason): int(num) for reason, num in manifest["quarantine"].items()}
        num_planned, num_samples = int(manifest["source"]["num_rows"]), int(manifest["config"]["sampling"]["n"])
        if all(0 <= num < MAX_COUNT for num in (*reasons.values(), num_planned, num_samples)):
            return Quarantine(reasons, num_planned, num_samples)
    return None


def _file_address(file: Path, address: str, path: Path) -> str:
    """Return a file of the folder `path` as the user of `address` finds it."""
    if "://" not in address:
        return str(file)
    return address if address.endswith(file.name) else f"{address}/{file.relative_to(path).as_posix()}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class when that is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_schema(file: Path, where: str) -> None:
    try:
        schema = pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{where} cannot be read as Parquet: {first_line(error)}") from error
    for field in RECORD_SCHEMA:
        if schema.names.count(field.name) > 1:
            raise SourceError(f"{where} has the column {field.name!r} more than once")
        if field.name not in schema.names:
            raise SourceError(
                f"{where} has no column {field.name!r}, so it is not of this schema; sampling/record.py lists them"
            )
        found = schema.field(field.name).type
        if not _is_compatible(found, field.type):
            raise SourceError(f"{where}: column {field.name!r} is {found}, where {field.type} is needed")


def _is_compatible(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Return whether a type is `wanted`, or a variant by another writer: int64, double, large_string, large_list."""
    if pa.types.is_list(wanted):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return is_list and _is_compatible(found.value_type, wanted.value_type)
    if pa.types.is_string(wanted):
        return pa.types.is_string(found) or pa.types.is_large_string(found)
    kinds = (pa.types.is_integer, pa.types.is_floating)
    return any(kind(found) and kind(wanted) for kind in kinds)
