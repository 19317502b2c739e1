"""Tests of durable files: complete or absent, with a full disk as an OutputError."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sampling.errors import OutputError
from tasks.store.durable import output_errors, read_json, sha256_of, write_bytes, write_json


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
    (tmp_path / ".writing").symlink_to("/dev/full")  # the kernel answers ENOSPC to every write
    with pytest.raises(OutputError, match=r"No space left on device.*free space") as caught, output_errors(tmp_path):
        write_bytes(tmp_path / "a", b"new")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_missing_document_is_none_and_a_broken_one_an_error(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") is None
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(OutputError, match=r"half.json cannot be read"):
        read_json(tmp_path / "half.json")
