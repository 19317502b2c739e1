"""Names that come from a store never leave the folder that they are written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampling.errors import OutputError
from tasks.store.durable import read_json
from tasks.store.lease import _parsed
from tasks.store.names import check_name
from tests.tasks.store.memory import MemoryS3
from tests.tasks.store.s3 import BUCKET

HOSTILE = [
    "data/../../evil.pth",
    "..",
    "/etc/evil",
    "data//evil",
    "./evil",
    "data/.",
    "evil\x1b[2K",
    "evil\n",
    "evil\x00",
    "evil\u202egnp.exe",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(OutputError, match=r"s3://b/ds holds the name '.*', which would leave its folder"):
        check_name(name, "s3://b/ds")


@pytest.mark.parametrize("name", ["manifest.json", "data/train-00000-of-00001.parquet", "a..b/…/é", ".work/v1/lock"])
def test_other_names_are_taken_as_they_are(name: str) -> None:
    assert check_name(name, "s3://b/ds") == name


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_downloaded_of_a_folder_with_a_hostile_key(tmp_path: Path, name: str) -> None:
    s3 = MemoryS3()
    mirror = s3.mirror(f"s3://{BUCKET}/root", tmp_path / "scratch")
    for key in ("data/good.parquet", name):
        s3.objects[f"root/ds/v1/{key}"] = (b"bytes", "1")
    with pytest.raises(OutputError, match="would leave its folder"):
        mirror.pull(mirror.local / "ds" / "v1")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_object_that_stands_for_a_folder_is_no_file(tmp_path: Path) -> None:
    s3 = MemoryS3()
    mirror = s3.mirror(f"s3://{BUCKET}/root", tmp_path / "scratch")
    s3.objects["root/ds/"] = s3.objects["root/ds/data/"] = (b"", "1")
    s3.objects["root/ds/data/a"] = (b"a", "2")
    assert mirror.listing(mirror.local / "ds") == {"data/a": 1}


def test_a_document_of_a_million_brackets_is_an_error_or_nothing(tmp_path: Path) -> None:
    deep = b"[" * 1_000_000
    assert _parsed(deep) == {}
    (tmp_path / "manifest.json").write_bytes(deep)
    with pytest.raises(OutputError, match=r"manifest\.json cannot be read"):
        read_json(tmp_path / "manifest.json")
