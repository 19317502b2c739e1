"""Tests of the mirror on a real S3 server, which may pause, fail or be gone."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sampling.errors import OutputError
from tasks.store.mirror import Mirror
from tasks.store.object_store import CALL_S
from tests.tasks.store.s3 import BUCKET, KEY, SECRET, S3Server, s3_server
from tests.tasks.store.test_mirror import made, tree
from tests.tasks.store.wire import wire

pytestmark = pytest.mark.slow


@pytest.fixture
def here(server: S3Server, root: str, tmp_path: Path) -> Mirror:
    return mirror(root, tmp_path / "here", server)


@pytest.fixture
def there(server: S3Server, root: str, tmp_path: Path) -> Mirror:
    return mirror(root, tmp_path / "there", server)


def mirror(root: str, local: Path, server: S3Server, patience_s: float = 60.0, **options: Any) -> Mirror:
    local.mkdir(exist_ok=True)
    return Mirror(root, local, server.options | options, patience_s)


def test_a_download_that_is_cut_leaves_no_file(server: S3Server, root: str, tmp_path: Path, here: Mirror) -> None:
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


def test_a_missing_bucket(server: S3Server, tmp_path: Path) -> None:
    lost = mirror("s3://nowhere/x", tmp_path / "here", server)
    path = made(lost.local, file=b"1") / "file"
    for call in (lost.push, lost.read, lost.exists, lost.listing, lost.remove):
        with pytest.raises(OutputError, match=r"s3://nowhere/x.*bucket does not exist; create the bucket"):
            call(path)


def test_credentials_are_never_shown(
    server: S3Server, root: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    config = {"retries": {"max_attempts": 1}}
    dead = mirror(root, tmp_path, server, 3.0, endpoint_url="http://127.0.0.1:9", config_kwargs=config)
    texts = [repr(dead), str(dead), repr(dead.store)]
    with pytest.raises(OutputError) as gone:
        dead.read(tmp_path / "file")
    with pytest.raises(OutputError) as missing:
        mirror("s3://nowhere", tmp_path, server).listing(tmp_path)
    spelt = []
    for user in (
        f"{KEY}:{SECRET}@",
        f"{KEY}:/{SECRET}@",
        f"{KEY}:a/{SECRET}%40",
        f"{KEY}%3Aa/{SECRET}@",
        f"{SECRET}%40",
    ):
        with pytest.raises(OutputError, match="holds no credentials") as error:
            Mirror(f"s3://{user}{BUCKET}/x", tmp_path)
        spelt.append(error)
    for error in (gone, missing, *spelt):
        texts += [str(each) for each in (error.value, error.value.__cause__)]
    assert gone.match("AWS_ENDPOINT_URL")
    assert len(caplog.messages) == 1
    for text in [*texts, caplog.text]:
        assert KEY not in text
        assert SECRET not in text
    assert pickle.loads(pickle.dumps(dead)).store._options["secret"] == SECRET


@pytest.mark.parametrize("call_s", [CALL_S, 2.0])  # the request hangs for 5 s; it is given up and repeated
def test_a_pause_is_survived(server: S3Server, here: Mirror, monkeypatch: pytest.MonkeyPatch, call_s: float) -> None:
    monkeypatch.setattr("tasks.store.object_store.CALL_S", call_s)
    folder = made(here.local / "d", **{f"f{i}": b"x" for i in range(20)})
    here.listing(folder)
    server.pause()
    threading.Timer(5.0, server.resume).start()
    here.push_tree(folder)
    assert len(here.listing(folder)) == 20


def test_a_restart_is_survived(tmp_path: Path) -> None:
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
def test_a_store_that_is_gone_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
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
