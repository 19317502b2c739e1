"""Tests of a dataset's upload to an object store: it exists with its manifest; other objects stay untouched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from sampling.errors import OutputError
from tasks.run.folder import RunFolder
from tasks.store.durable import write_json
from tasks.store.manifest import MANIFEST, ListedFile
from tasks.store.mirror import Mirror
from tests.tasks.store.s3 import S3Server, s3_server

pytestmark = pytest.mark.slow
NAMES = ("data/rows", "README.md")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def folder(server: S3Server, tmp_path: Path) -> RunFolder:
    """A run whose dataset is ready in its scratch folder."""
    mirror = Mirror(f"{server.root}/{tmp_path.name}", tmp_path, server.options)
    folder = RunFolder(tmp_path, "d", "v1", {}, mirror)
    folder.work.mkdir(parents=True)
    (folder.published / "data").mkdir(parents=True)
    (folder.published / "data" / "rows").write_bytes(b"rows")
    (folder.published / "README.md").write_bytes(b"card")
    files, documents = ([asdict(ListedFile.of(folder.published, folder.published / name))] for name in NAMES)
    manifest = {"run_id": folder.run_id, "identity": {}, "files": files, "documents": documents}
    write_json(folder.published / MANIFEST, manifest)
    return folder


def lost() -> None:
    raise OutputError("taken over")


def test_it_is_uploaded_whole(folder: RunFolder) -> None:
    calls: list[int] = []
    folder.upload_dataset(folder.published, lambda: calls.append(1))
    assert folder.find_published() is not None
    assert len(calls) == 3  # before anything is touched, before the upload, before it exists
    assert folder.mirror is not None
    assert set(folder.mirror.listing(folder.published)) == {
        *("data/rows-bc51e9e65d79", "README-8367cd66fdd1.md", "README.md", MANIFEST)
    }


def test_objects_of_another_origin_stay(folder: RunFolder) -> None:
    assert folder.mirror is not None
    folder.mirror.write(folder.published / "precious", b"data")
    with pytest.raises(OutputError, match=r"s3://.*/d/v1 holds no manifest.json; move it away"):
        folder.find_published()


def test_an_interrupted_upload_of_this_run_is_replaced(folder: RunFolder) -> None:
    assert folder.mirror is not None
    calls: list[int] = []

    def lost_at_the_end() -> None:
        calls.append(1)
        if len(calls) == 3:
            lost()

    with pytest.raises(OutputError, match="taken over"):
        folder.upload_dataset(folder.published, lost_at_the_end)
    assert {name.partition("-")[0] for name in folder.mirror.listing(folder.published)} == {"data/rows", "README"}
    manifest = (folder.published / MANIFEST).read_bytes()
    assert folder.find_published() is None  # no dataset, and no foreign one either
    (folder.published / MANIFEST).write_bytes(manifest)
    folder.upload_dataset(folder.published, lambda: None)
    assert folder.find_published() is not None


def test_a_run_that_lost_its_lock_touches_nothing(folder: RunFolder) -> None:
    assert folder.mirror is not None
    folder.upload_dataset(folder.published, lambda: None)
    before = folder.mirror.listing(folder.published)
    with pytest.raises(OutputError, match="taken over"):
        folder.upload_dataset(folder.published, lost)
    assert folder.mirror.listing(folder.published) == before
