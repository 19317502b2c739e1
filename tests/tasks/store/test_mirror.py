"""A folder with its copy on a real S3 server, which may pause, fail or be gone."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sampling.errors import OutputError
from tasks.store.mirror import FETCHING, Mirror
from tasks.store.object_store import CALL_S
from tests.tasks.store.s3 import BUCKET, KEY, PAGE, SECRET, S3Server, s3_server
from tests.tasks.store.wire import wire


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as started:
        yield started


@pytest.fixture
def root(server: S3Server, tmp_path: Path) -> str:
    return f"{server.root}/{tmp_path.name}/prefix"


@pytest.fixture
def here(server: S3Server, root: str, tmp_path: Path) -> Mirror:
    return mirror(root, tmp_path / "here", server)


@pytest.fixture
def there(server: S3Server, root: str, tmp_path: Path) -> Mirror:
    return mirror(root, tmp_path / "there", server)


def mirror(root: str, local: Path, server: S3Server, patience_s: float = 60.0, **options: Any) -> Mirror:
    local.mkdir(exist_ok=True)
    return Mirror(root, local, server.options | options, patience_s)


def made(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_tree_goes_there_and_back(here: Mirror, there: Mirror) -> None:
    files = {f"f{i}": b"x" * i for i in range(2 * PAGE + 5)}  # three pages of a listing
    folder = made(here.local / "d", **files, **{"a b+ü%.json": b"{}"})
    made(folder / "deep" / ".work", big=bytes(range(256)) * 2**17 + b"end")  # 32 MiB and 3 bytes: in parts
    here.push_tree(folder, last="f7")
    assert there.pull(there.local / "d")
    assert tree(there.local / "d") == tree(folder)
    assert there.listing(there.local) == {f"d/{name}": len(data) for name, data in tree(folder).items()}
    assert there.pull(there.local / "d") == []
    assert list((there.local / FETCHING).iterdir()) == []


def test_a_neighbour_whose_name_begins_alike_is_left_alone(here: Mirror, there: Mirror) -> None:
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


def test_the_last_file_is_there_when_all_others_are(server: S3Server, root: str, tmp_path: Path, here: Mirror) -> None:
    requests = []

    def listen(data: bytes) -> bytes:
        requests.append(data)
        return data

    with wire(server.port, on_request=listen) as url:
        watched = mirror(root, tmp_path / "here", server, endpoint_url=url)
        folder = made(watched.local / "d", a=b"1", manifest=b"2", z=b"3")
        watched.push_tree(folder, last="manifest")
    puts = [data.split()[1].rpartition(b"/")[2].partition(b"?")[0] for data in requests if data.startswith(b"PUT")]
    assert set(puts[:2]) == {b"a", b"z"}
    assert puts[2:] == [b"manifest"]
    assert here.listing(folder) == {"a": 1, "manifest": 1, "z": 1}


def test_what_lacks_is_fetched_what_is_there_is_not(here: Mirror, there: Mirror) -> None:
    here.push_tree(made(here.local / "d", whole=b"12345", half=b"12345", none=b"12345", other=b"12345"))
    made(there.local / "d", whole=b"67890", half=b"123")
    fetched = there.pull(there.local / "d", wanted=lambda name: name != "other")
    assert {path.name for path in fetched} == {"half", "none"}
    assert tree(there.local / "d") == {"whole": b"67890", "half": b"12345", "none": b"12345"}


def test_a_fetch_that_breaks_leaves_nothing_under_the_name(
    server: S3Server, root: str, tmp_path: Path, here: Mirror
) -> None:
    data = b"x" * 2**22
    here.push(made(here.local, file=data) / "file")
    left = 2**20

    def cut(piece: bytes) -> bytes | None:
        nonlocal left
        left -= len(piece)
        return piece if left > 0 else None

    with wire(server.port, on_answer=cut) as url:
        broken = mirror(root, tmp_path / "broken", server, patience_s=1.0, endpoint_url=url)
        with pytest.raises(OutputError, match="has not answered for"):
            broken.pull(broken.local)
    assert tree(broken.local) == {}


def test_an_upload_that_arrives_otherwise_is_an_error(server: S3Server, root: str, tmp_path: Path) -> None:
    lie = lambda data: data.replace(b"<Size>5</Size>", b"<Size>4</Size>")  # noqa: E731
    with wire(server.port, on_answer=lie) as url:
        lied_to = mirror(root, tmp_path / "here", server, endpoint_url=url)
        with pytest.raises(OutputError, match=r"prefix/file has 4 bytes, .*/here/file has 5"):
            lied_to.push(made(lied_to.local, file=b"12345") / "file")


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
        here.push_tree(folder, last="b")
        there.pull(there.local / f"t{i}")
        there.pull(there.local / "t0")  # the same for all
        return (there.local / f"t{i}/b").read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(24))) == [b"b" * i for i in range(24)]
    assert tree(there.local) == tree(here.local)


def in_child(sent: Mirror, name: str) -> None:
    (sent.local / name).write_bytes(b"from the child")
    sent.push(sent.local / name)


def test_a_spawned_process_uses_it_too(here: Mirror, there: Mirror) -> None:
    here.listing(here.local)  # its thread runs
    children = [
        multiprocessing.get_context("spawn").Process(target=in_child, args=(here, f"child{i}")) for i in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert there.listing(there.local) == {"child0": 14, "child1": 14}


def test_credentials_come_from_the_environment(
    server: S3Server, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    bare = Mirror(f"{root}/", tmp_path)
    bare.write(tmp_path / "file", b"1")
    assert bare.listing(tmp_path) == {"file": 1}
    assert bare.address(tmp_path / "file") == f"{root}/file"
    assert bare.address(tmp_path) == root


def test_no_credentials(root: str, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in server.env:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(OutputError, match=r"Unable to locate credentials; set AWS_ACCESS_KEY_ID"):
        Mirror(root, tmp_path, {"endpoint_url": server.url}).read(tmp_path / "file")


def test_a_bucket_that_is_missing(server: S3Server, tmp_path: Path) -> None:
    lost = mirror("s3://nowhere/x", tmp_path / "here", server)
    path = made(lost.local, file=b"1") / "file"
    for ask in (lost.push, lost.read, lost.exists, lost.listing, lost.remove):
        with pytest.raises(OutputError, match=r"s3://nowhere/x.*bucket does not exist; create the bucket"):
            ask(path)


@pytest.mark.parametrize("url", ["gs://bucket/x", "s3://", "s3:///x", "bucket/x", "http://host/x"])
def test_what_is_no_store(url: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is no object store known here"):
        Mirror(url, tmp_path)


def test_credentials_are_never_shown(
    server: S3Server, root: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    config = {"retries": {"max_attempts": 1}}
    dead = mirror(root, tmp_path, server, 3.0, endpoint_url="http://127.0.0.1:9", config_kwargs=config)
    shown = [repr(dead), str(dead), repr(dead.store)]
    with pytest.raises(OutputError) as gone:
        dead.read(tmp_path / "file")
    with pytest.raises(OutputError) as missing:
        mirror("s3://nowhere", tmp_path, server).listing(tmp_path)
    with pytest.raises(OutputError, match="holds no credentials") as spelt:
        Mirror(f"s3://{KEY}:{SECRET}@{BUCKET}/x", tmp_path)
    for error in (gone, missing, spelt):
        shown += [str(each) for each in (error.value, error.value.__cause__)]
    assert gone.match("AWS_ENDPOINT_URL")
    assert len(caplog.messages) == 1
    for text in [*shown, caplog.text]:
        assert KEY not in text
        assert SECRET not in text
    assert pickle.loads(pickle.dumps(dead)).store._options["secret"] == SECRET


@pytest.mark.parametrize("call_s", [CALL_S, 2.0])  # the request hangs for 5 s; is given up, and made again
def test_a_pause_is_ridden_out(server: S3Server, here: Mirror, monkeypatch: pytest.MonkeyPatch, call_s: float) -> None:
    monkeypatch.setattr("tasks.store.object_store.CALL_S", call_s)
    folder = made(here.local / "d", **{f"f{i}": b"x" for i in range(20)})
    here.listing(folder)
    server.pause()
    threading.Timer(5.0, server.resume).start()
    here.push_tree(folder)
    assert len(here.listing(folder)) == 20


def test_a_restart_is_ridden_out(tmp_path: Path) -> None:
    with s3_server() as own:
        local = mirror(own.root, tmp_path / "here", own)
        path = made(local.local, file=b"1") / "file"
        local.push(path)
        own.stop()
        timer = threading.Timer(3.0, own.start)
        timer.start()
        local.push(path)
        timer.join()
        assert local.listing(local.local) == {"file": 1}


@pytest.mark.parametrize("end", ["stop", "pause"])
def test_a_store_that_is_gone_ends_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr("tasks.store.object_store.CALL_S", 4.0)
    with s3_server() as own:
        local = mirror(own.root, tmp_path / "here", own, patience_s=2.0)
        folder = made(local.local, **{f"f{i}": b"x" * 2**20 for i in range(50)})
        local.listing(folder)
        getattr(own, end)()
        start = time.monotonic()
        with pytest.raises(OutputError, match=rf"s3://{BUCKET}/f.*the store has not answered for \d+ s"):
            local.push_tree(folder)
        assert time.monotonic() - start < 2.0 + 2 * 5.0 + 10.0  # of all 50 files together; one by one: 250 s
