"""A dataset of an object store, fetched to be read here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sampling.errors import OutputError, SourceError
from tasks.run.folder import LATEST
from tasks.store.mirror import Mirror
from tasks.store.scratch import process_scratch


def fetch(url: str, options: Mapping[str, Any] | None = None) -> tuple[str, Path]:
    """The dataset's URL with the local folder (or file) that holds it until this process ends.

    `latest` is an object that holds a version's name. Raises SourceError when there is nothing, or it cannot be read.
    """
    parent, _, name = url.rstrip("/").rpartition("/")
    if parent.endswith(":/"):
        raise SourceError(f"{url} is a whole bucket; give a dataset's URL, s3://bucket/…/name/version")
    try:
        mirror = Mirror(parent, process_scratch(), options)
        path = mirror.local / name
        if name == LATEST and (version := mirror.read(path)) is not None:
            path = mirror.local / _version(url, version)
        if mirror.pull(path) or (mirror.exists(path) and mirror.refresh(path)):
            return mirror.address(path), path
    except OutputError as error:
        raise SourceError(str(error)) from error
    raise SourceError(f"nothing lies at {mirror.address(path)}; give a dataset's URL, s3://bucket/…/name/version")


def _version(url: str, text: bytes) -> str:
    version = text.decode(errors="replace").strip()
    if not version or version.startswith(".") or "/" in version:
        raise SourceError(f"{url} should hold the name of a version, not {version[:40]!r}; give the version's own URL")
    return version
