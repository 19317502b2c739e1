"""Tests of claims: one process per shard, however processes end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from sampling.errors import OutputError
from tasks.run.claims import Claims
from tasks.run.folder import RunFolder
from tasks.store.durable import read_json, write_json
from tasks.store.mirror import Mirror
from tests.tasks.store.s3 import S3Server, s3_server


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run with three shards, of which the first one is complete."""
    folder = RunFolder(tmp_path, "d", "v", {})
    for index in range(3):
        folder.shard(index).path.mkdir(parents=True)
    write_json(folder.shard(0).summary, {})
    return folder


def holder_of(folder: RunFolder, index: int) -> subprocess.Popen[str]:
    """Start another process that holds a shard until it is killed."""
    code = f"""
import time
from pathlib import Path
from tasks.run.claims import Claims
from tasks.run.folder import RunFolder
with Claims(RunFolder(Path({str(folder.root)!r}), "d", "v", {{}}), "other").claimed({index}) as num_lost:
    print(num_lost, flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    assert process.stdout is not None
    assert process.stdout.readline().strip().isdigit()
    return process


def test_the_shard_after_a_held_one_is_held_before_an_engine_begins_it(folder: RunFolder) -> None:
    ours, other = Claims(folder, "ours"), Claims(folder, "other")

    def held() -> list[bool]:
        found = []
        for index in range(3):
            with other.claimed(index) as num_lost:
                found.append(num_lost is None)
        return found

    with closing(ours.in_order(3)) as shards:
        assert next(shards) == (0, 1)
        assert held() == [True, True, False]
        with other.claimed(2):
            assert next(shards) == (1, None)
        assert held() == [False, True, False]
        assert next(shards) == (2, None)
        assert held() == [False, False, True]
        assert list(shards) == []
    assert held() == [False, False, False]
    shards = ours.in_order(3)
    with other.claimed(0), pytest.raises(OutputError, match="shard 00000 is sampled by the flow run other"):
        next(shards)
    with closing(ours.in_order(3)) as shards:
        next(shards)
    assert held() == [False, False, False]  # however it ends


def test_a_shard_is_held_by_one_process(folder: RunFolder) -> None:
    ours = Claims(folder, "ours")
    other = holder_of(folder, 1)
    with ours.claimed(1) as num_lost:
        assert num_lost is None
    with pytest.raises(OutputError, match="shard 00001 is sampled by the flow run other"), ours.held(1):
        pass
    other.kill()
    other.wait()
    with ours.claimed(1) as num_lost:
        assert num_lost == 1  # free at once, and its loss is counted
        assert (read_json(folder.shard(1).claim) or {})["holder"] == "ours"


def test_losses_are_counted_until_a_holder_releases_its_claim(folder: RunFolder) -> None:
    ours = Claims(folder, "ours")
    for _ in range(2):
        other = holder_of(folder, 1)
        other.kill()
        other.wait()
    with suppress(KeyboardInterrupt), ours.claimed(1) as num_lost:
        assert num_lost == 2
        raise KeyboardInterrupt
    with ours.claimed(1) as num_lost:
        assert num_lost == 0


def test_each_unfinished_shard_is_yielded_once(folder: RunFolder) -> None:
    claimed = []
    for index, num_lost in Claims(folder, "ours").each_free(3):
        claimed.append((index, num_lost))
        write_json(folder.shard(index).summary if index == 1 else folder.shard(index).failure, {})
    assert claimed == [(1, 0), (2, 0)]


def test_shards_of_other_holders_are_skipped(folder: RunFolder) -> None:
    other = holder_of(folder, 1)
    try:
        for index, _ in Claims(folder, "ours").each_free(3):
            assert index == 2
            write_json(folder.shard(index).summary, {})
    finally:
        other.kill()
        other.wait()


def test_a_shard_is_free_when_its_holder_stops(folder: RunFolder) -> None:
    theirs = Claims(folder, "theirs")
    with closing(Claims(folder, "ours").each_free(3)) as shards:
        assert next(shards) == (1, 0)
        with theirs.claimed(1) as num_lost:
            assert num_lost is None
    with theirs.claimed(1) as num_lost:
        assert num_lost == 0


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def on_a_machine(server: S3Server, path: Path) -> RunFolder:
    """Return the run on another machine, with the same object store."""
    path.mkdir()
    return RunFolder(path, "d", "v", {}, Mirror(f"{server.root}/claims", path, server.options))


@pytest.mark.slow
def test_in_a_store_a_shard_is_held_by_one_process_too(server: S3Server, tmp_path: Path) -> None:
    here, there = (on_a_machine(server, tmp_path / name) for name in ("here", "there"))
    for index in range(2):
        here.shard(index).path.mkdir(parents=True)
        here.shard(index).rows.write_bytes(b"rows")
        here.shard(index).upload(here.shard(index).rows)
    ours, theirs = Claims(here, "ours"), Claims(there, "theirs")
    with ours.claimed(0) as num_lost:
        assert num_lost == 0
        with theirs.claimed(0) as other:
            assert other is None
        with pytest.raises(OutputError, match="shard 00000 is sampled by the flow run ours"), theirs.held(0):
            pass
        claimed = []
        for index, _ in theirs.each_free(2):  # ends though ours is not released: its holder renews it
            claimed.append(index)
            assert there.shard(index).rows.read_bytes() == b"rows"
            assert there.shard(index).parts.is_dir()
            write_json(there.shard(index).failure, {})
            there.shard(index).upload(there.shard(index).failure)
        assert claimed == [1]
        assert here.ended_shards() == {1}
        assert here.shard(1).is_ended()
    with theirs.claimed(0) as num_lost:
        assert num_lost == 0
