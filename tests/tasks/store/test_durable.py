"""Tests of durable files: complete or absent, with a full disk as an OutputError."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sampling.errors import OutputError
from tasks.store.durable import MAX_DOCUMENT_BYTES, output_errors, read_json, sha256_of, write_bytes, write_json
from tests.full_disk import FULL, full_disk


def test_round_trip(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ä": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"ä": [1, 2.5, None]}
    write_json(tmp_path / "a.json", {"ä": [1, 2.5, None, float("nan"), float("-inf")]})
    assert read_json(tmp_path / "a.json") == {"ä": [1, 2.5, None, "NaN", "-Infinity"]}
    write_bytes(tmp_path / "b", b"abc")
    assert sha256_of(tmp_path / "b") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b"]


def test_a_partial_file_of_a_crash_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".writing").write_bytes(b"half of something long")
    write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert not (tmp_path / ".writing").exists()


def test_a_full_disk_keeps_the_old_file_and_raises_advice(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(OutputError, match=f"{FULL}.*free space") as caught, output_errors(tmp_path), full_disk():
        write_bytes(tmp_path / "a", b"new")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Another user of a shared folder could place it where the temporary file goes."""
    (tmp_path / "thesis").write_bytes(b"mine")
    (tmp_path / ".writing").symlink_to("thesis")
    with pytest.raises(OutputError, match="symbolic links"), output_errors(tmp_path):
        write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "thesis").read_bytes() == b"mine"


@pytest.mark.parametrize("data", [b"[" * 100_000, b" " * (MAX_DOCUMENT_BYTES + 1)], ids=["deep", "huge"])
def test_a_hostile_document_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(OutputError, match=r"a\.json cannot be read \(.*\); remove") as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_a_missing_document_is_none_and_a_broken_one_an_error(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") is None
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(OutputError, match=r"half.json cannot be read"):
        read_json(tmp_path / "half.json")
