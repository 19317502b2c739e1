"""A dataset that lies in a folder, or an object store: published, refused or foreign."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from sampling.errors import OutputError, RefusedError, SourceError
from sampling.record import RECORD_SCHEMA
from tasks.config import PipelineConfig
from tasks.run.dataset_metadata import read_metadata
from tasks.store.durable import read_json, sha256_of
from validations.limits import Limits
from validations.measure.metadata import DatasetMetadata


@dataclass(frozen=True, slots=True)
class Dataset:
    """Its files, with what lies beside them."""

    address: str  # where its user says that it is: a folder, or the URL that it was fetched from
    path: Path
    files: list[Path]  # at least one; each has the columns of RECORD_SCHEMA
    manifest: dict[str, Any] | None  # None: foreign
    facts: DatasetMetadata

    @property
    def title(self) -> str:
        """`name version`, or the folder's name."""
        named = [str(value) for key in ("name", "version") if (value := (self.manifest or {}).get(key))]
        return " ".join(named) or self.path.name

    @property
    def limits(self) -> Limits:
        """Those it was made with; the defaults for a foreign dataset."""
        config = (self.manifest or {}).get("config")
        try:
            return PipelineConfig.model_validate(config).validation
        except ValidationError:
            return Limits()

    def check_whole(self) -> None:
        """Raises RefusedError when it is not what its manifest lists: no figure of it can be trusted."""
        if damages := self.damages():
            raise RefusedError(f"{self.address}: {'; '.join(damages)}")

    def damages(self) -> list[str]:
        """What lies there otherwise than the manifest lists it."""
        listed = (self.manifest or {}).get("files")
        if not isinstance(listed, list):
            return []
        names = [file.get("path") for file in listed if isinstance(file, dict)]
        found = [str(path.relative_to(self.path)) for path in self.files]
        added = [f"{name} is not listed in manifest.json" for name in found if name not in names]
        return [*(damage for file in listed for damage in self._damage(file)), *added]

    def _damage(self, file: Any) -> list[str]:
        name, digest = (file.get("path"), file.get("sha256")) if isinstance(file, dict) else (None, None)
        paths = {str(path.relative_to(self.path)): path for path in self.files}
        if not isinstance(name, str) or name not in paths:
            return [f"manifest.json lists {name!r}, which is not in the dataset"]
        found = sha256_of(paths[name])
        return [] if found == digest else [f"{name} has sha256 {found[:12]}…, manifest.json lists {str(digest)[:12]}…"]


def open_dataset(place: str | Path, options: Mapping[str, Any] | None = None) -> Dataset:
    """Open a folder of Parquet files (data/*.parquet, else *.parquet), or one file, or either by its s3:// URL.

    What a URL names is fetched, with an object store's `options`, into a folder that goes when this process ends.
    Raises SourceError when there is none, when one cannot be read, or lacks a column.
    """
    if isinstance(place, str) and "://" in place:
        from tasks.publish.fetched import fetch  # s3fs takes half a second to import

        address, path = fetch(place, options)
        return _open(address, path)
    path = Path(place).expanduser()
    if path.is_dir():
        path = path.resolve()  # `latest` is a link, whose own name says nothing
    return _open(str(path), path)


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
        _check_schema(file, _shown(file, address, path))
    try:
        manifest = read_json(path / "manifest.json")
    except (OutputError, RecursionError) as error:
        shown = _shown(path / "manifest.json", address, path)
        raise SourceError(f"{shown} is no JSON document; move it away to judge the rest") from error
    return Dataset(address, path, files, manifest if isinstance(manifest, dict) else None, read_metadata(path))


def _shown(file: Path, address: str, path: Path) -> str:
    """A file of the folder `path` as its user finds it."""
    if "://" not in address:
        return str(file)
    return address if address.endswith(file.name) else f"{address}/{file.relative_to(path).as_posix()}"


def _check_schema(file: Path, shown: str) -> None:
    try:
        schema = pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{shown} cannot be read as Parquet: {said}") from error
    for field in RECORD_SCHEMA:
        if schema.names.count(field.name) > 1:
            raise SourceError(f"{shown} has the column {field.name!r} more than once")
        if field.name not in schema.names:
            raise SourceError(
                f"{shown} has no column {field.name!r}, so it is not of this schema; sampling/record.py lists them"
            )
        found = schema.field(field.name).type
        if not _is_alike(found, field.type):
            raise SourceError(f"{shown}: column {field.name!r} is {found}, where {field.type} is needed")


def _is_alike(found: pa.DataType, wanted: pa.DataType) -> bool:
    """The same, or wider: other writers give int64, double, large_string, large_list."""
    if pa.types.is_list(wanted):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return is_list and _is_alike(found.value_type, wanted.value_type)
    if pa.types.is_string(wanted):
        return pa.types.is_string(found) or pa.types.is_large_string(found)
    kinds = (pa.types.is_integer, pa.types.is_floating)
    return any(kind(found) and kind(wanted) for kind in kinds)
