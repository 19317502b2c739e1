"""Tests of the mirror: on an in-memory S3, most of them on a real server too."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sampling.errors import OutputError
from tasks.store.mirror import PARTIAL, Mirror
from tests.tasks.store.memory import Clock, MemoryS3
from tests.tasks.store.s3 import PAGE


def made(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_tree_is_uploaded_and_downloaded(here: Mirror, there: Mirror) -> None:
    files = {f"f{i}": b"x" * i for i in range(2 * PAGE + 5)}  # three pages of a listing
    folder = made(here.local / "d", **files, **{"a b+ü%.json": b"{}"})
    made(folder / "deep" / ".work", big=bytes(range(256)) * 2**17 + b"end")  # 32 MiB and 3 bytes: in parts
    here.push_tree(folder)
    assert there.pull(there.local / "d")
    assert tree(there.local / "d") == tree(folder)
    assert there.listing(there.local) == {f"d/{name}": len(data) for name, data in tree(folder).items()}
    assert there.pull(there.local / "d") == []
    assert list((there.local / PARTIAL).iterdir()) == []


def test_a_folder_whose_name_is_a_prefix_of_anothers(here: Mirror, there: Mirror) -> None:
    for name in ("v1", "v10"):
        here.push_tree(made(here.local / name, file=name.encode()))
    assert here.listing(here.local / "v1") == {"file": 2}
    assert there.pull(there.local / "v1") == [there.local / "v1/file"]
    assert not here.exists(here.local / "v1/fil")
    assert not here.exists(here.local / "v1")
    here.remove(here.local / "v1")
    assert here.listing(here.local) == {"v10/file": 3}
    here.remove(here.local / "v10/file")
    here.remove(here.local / "nothing")
    assert here.listing(here.local) == {}


def test_pull_downloads_what_is_missing_or_of_another_size(here: Mirror, there: Mirror) -> None:
    here.push_tree(made(here.local / "d", whole=b"12345", half=b"12345", none=b"12345", other=b"12345"))
    made(there.local / "d", whole=b"67890", half=b"123")
    downloaded = there.pull(there.local / "d", wanted=lambda name: name != "other")
    assert {path.name for path in downloaded} == {"half", "none"}
    assert tree(there.local / "d") == {"whole": b"67890", "half": b"12345", "none": b"12345"}


def test_a_small_file_is_read_written_and_refreshed(here: Mirror, there: Mirror) -> None:
    path = here.local / "d/state.json"
    assert here.read(path) is None
    assert not here.refresh(path)
    there.write(there.local / "d/state.json", b"one")
    assert (here.exists(path), here.read(path), path.exists()) == (True, b"one", False)
    assert here.refresh(path)
    there.write(there.local / "d/state.json", b"two")  # as long as before: not seen by pull
    assert here.pull(here.local) == []
    assert here.refresh(path)
    assert path.read_bytes() == b"two"
    there.remove(there.local / "d")
    assert not here.refresh(path)
    assert not path.exists()


def test_the_local_disk_has_its_own_errors(here: Mirror) -> None:
    with pytest.raises(FileNotFoundError):
        here.push(here.local / "nothing")
    with pytest.raises(ValueError, match="not in the subpath"):
        here.push(here.local.parent / "outside")


def test_many_threads_use_one_mirror(here: Mirror, there: Mirror) -> None:
    def work(i: int) -> bytes:
        folder = made(here.local / f"t{i}", a=b"a" * i, b=b"b" * i)
        here.push_tree(folder)
        there.pull(there.local / f"t{i}")
        there.pull(there.local / "t0")  # the same for all
        return (there.local / f"t{i}/b").read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(24))) == [b"b" * i for i in range(24)]
    assert tree(there.local) == tree(here.local)


def test_a_download_that_fails_leaves_no_file(s3: MemoryS3, root: str, tmp_path: Path, clock: Clock) -> None:
    mirror = s3.mirror(root, tmp_path)
    mirror.write(tmp_path / "file", b"x")

    def fail(method: str, key: str) -> None:
        if method == "get_object":
            raise ConnectionResetError

    s3.before = fail
    with pytest.raises(OutputError, match="has not answered for"):
        mirror.pull(tmp_path)
    assert tree(tmp_path) == {}


def test_an_upload_that_arrives_with_another_size_is_an_error(s3: MemoryS3, root: str, tmp_path: Path) -> None:
    def truncate(method: str, key: str) -> None:
        if method == "put_object":
            s3.objects[key] = s3.objects[key][0][:-1], "etag"

    s3.after = truncate
    with pytest.raises(OutputError, match=r"prefix/file has 4 bytes, .*/file has 5"):
        s3.mirror(root, tmp_path).push(made(tmp_path, file=b"12345") / "file")


def test_a_missing_bucket(s3: MemoryS3, tmp_path: Path) -> None:
    mirror = s3.mirror("s3://nowhere/x", tmp_path)
    path = made(tmp_path, file=b"1") / "file"
    for call in (mirror.push, mirror.read, mirror.exists, mirror.listing, mirror.remove):
        with pytest.raises(OutputError, match=r"s3://nowhere/x.*bucket does not exist; create the bucket"):
            call(path)


def test_after_an_error_no_further_file_is_begun(s3: MemoryS3, root: str, tmp_path: Path, clock: Clock) -> None:
    def fail(method: str, key: str) -> None:
        raise ConnectionRefusedError

    s3.before = fail
    folder = made(tmp_path / "d", **{f"f{i}": b"x" for i in range(50)})
    with pytest.raises(OutputError, match="has not answered"):
        s3.mirror(root, tmp_path, patience_s=0.0).push_tree(folder)
    assert len({key for _, key in s3.requests}) < 50


@pytest.mark.parametrize("url", ["gs://bucket/x", "s3://", "s3:///x", "bucket/x", "http://host/x"])
def test_a_url_that_is_no_store(url: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is no object store known here"):
        Mirror(url, tmp_path)
