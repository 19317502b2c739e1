"""Tests of what a manifest lists, which may have been written by anyone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampling.errors import OutputError
from tasks.store.manifest import ListedFile, listed_files

DIGEST = "0123456789ab" + "c" * 52
GOOD = {"path": "data/a.parquet", "num_bytes": 4, "sha256": DIGEST, "num_rows": 1}


def test_data_come_first_then_what_lies_beside() -> None:
    manifest = {"files": [GOOD], "documents": [{**GOOD, "path": "README.md"}]}
    assert [file.path for file in listed_files(manifest, "m")] == ["data/a.parquet", "README.md"]
    assert listed_files({}, "m") == []


def test_an_objects_name_holds_the_digest(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "a.b.parquet"
    path.write_bytes(b"rows")
    assert ListedFile.of(tmp_path, path).object_name == "data/a.b-bc51e9e65d79.parquet"
    assert ListedFile("data/a", 4, DIGEST).object_name == "data/a-0123456789ab"


@pytest.mark.parametrize(
    "entry",
    [
        *({**GOOD, "path": path} for path in ("../a", "/etc/passwd", "a//b", "a/./b", "", "a\nb", "\x1b]0;P", 3, None)),
        *({**GOOD, "sha256": digest} for digest in ("", DIGEST.upper(), DIGEST[1:], ["a"], "../" * 21 + "a")),
        *({**GOOD, "num_bytes": size} for size in ("4", 4.0, None)),
        *("data", None, []),
    ],
)
def test_an_entry_that_is_no_file(entry: Any) -> None:
    with pytest.raises(OutputError, match=r"^s3://b/manifest\.json (lists|holds the name)") as caught:
        listed_files({"files": [GOOD, entry]}, "s3://b/manifest.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("files", [None, {}, "data", 3])
def test_no_list_of_files(files: Any) -> None:
    with pytest.raises(OutputError, match=r"^m: documents is a .*, where a list of files is needed"):
        listed_files({"files": [GOOD], "documents": files}, "m")
