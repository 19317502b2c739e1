"""A claim in a real S3 server, with holders that are killed, asleep, raced or cut off."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampling.errors import OutputError
from tasks.store.lease import Lease
from tasks.store.mirror import Mirror
from tests.tasks.store.s3 import S3Server, s3_server
from tests.tasks.store.wire import wire

LOCAL = Path("/nowhere")  # a lease makes no local file
LEASE_S, BEAT_S = 2.5, 0.4
spawn = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as started:
        yield started


@pytest.fixture
def mirror(server: S3Server, tmp_path: Path) -> Mirror:
    return Mirror(f"{server.root}/{tmp_path.name}", LOCAL, server.options)


@pytest.fixture
def claim(mirror: Mirror) -> Iterator[Callable[..., Lease]]:
    """Makes claims on one thing; each is released at the end."""
    made = []

    def make(lease_s: float = LEASE_S, beat_s: float = BEAT_S, **options: Any) -> Lease:
        lease = Lease(options.pop("mirror", mirror), LOCAL / "work/lock", lease_s=lease_s, beat_s=beat_s, **options)
        made.append(lease)
        return lease

    yield make
    for lease in made:
        lease.release()


def taken_at_last(lease: Lease, limit_s: float = 30.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not lease.try_acquire():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def never_taken(lease: Lease, seconds: float) -> bool:
    return not taken_at_last(lease, seconds)


def becomes(condition: Callable[[], bool], limit_s: float = 30.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def content(mirror: Mirror) -> dict[str, Any]:
    return json.loads(mirror.read(LOCAL / "work/lock") or b"{}")


def test_it_is_held_until_it_is_released(claim: Callable[..., Lease], mirror: Mirror) -> None:
    first, second = claim(facts={"shard": 3}), claim()
    with first:
        assert first.held
        first.check()
        assert not second.try_acquire()
        assert second.holder is not None
        assert second.holder["pid"] == os.getpid()
        assert second.holder["host"] == socket.gethostname()
        assert second.holder["shard"] == 3
        assert first.try_acquire()  # it has it
    assert content(mirror) == {}
    assert second.try_acquire()
    assert (second.holder, second.num_lost) == (None, 0)
    with pytest.raises(OutputError, match="work/lock is not held"):
        first.check()
    first.release()
    assert content(mirror)["holder"]


def test_one_that_is_renewed_is_not_taken(claim: Callable[..., Lease], mirror: Mirror) -> None:
    holder, other = claim(), claim()
    assert holder.try_acquire()
    assert never_taken(other, 2 * LEASE_S)
    assert content(mirror)["beat"] >= 3
    assert not holder.lost


def test_a_live_holder_is_named(claim: Callable[..., Lease]) -> None:
    with claim() as holder:
        words = rf"work/lock is held by another run \(pid {os.getpid()} on .+, since 20.+\); wait for it, end it"
        with pytest.raises(OutputError, match=words):
            claim().acquire()
        threading.Timer(2.0, holder.release).start()
        claim().acquire(wait_s=30.0)


def hold(url: str, options: dict[str, Any], taken: Any) -> None:
    Lease(Mirror(url, LOCAL, options), LOCAL / "work/lock", {"n": 1}, lease_s=LEASE_S, beat_s=BEAT_S).acquire()
    taken.set()
    time.sleep(600)


@pytest.fixture
def other_process(server: S3Server, mirror: Mirror) -> Iterator[Any]:
    """A process that holds the lease."""
    taken = spawn.Event()
    process = spawn.Process(target=hold, args=(mirror.store.url, server.options, taken), daemon=True)
    process.start()
    assert taken.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_killed_holder_is_succeeded(claim: Callable[..., Lease], other_process: Any, mirror: Mirror) -> None:
    watching = claim()
    assert never_taken(watching, 2 * LEASE_S)
    other_process.kill()
    assert taken_at_last(watching)
    assert watching.num_lost == content(mirror)["num_lost"] == 1
    assert content(mirror)["pid"] == os.getpid()


def test_acquire_waits_until_a_killed_holder_is_known_to_be_dead(
    claim: Callable[..., Lease], other_process: Any
) -> None:
    other_process.kill()
    with claim() as lease:
        assert lease.held


def test_a_holder_that_sleeps_has_lost(claim: Callable[..., Lease], other_process: Any, mirror: Mirror) -> None:
    os.kill(other_process.pid, signal.SIGSTOP)
    successor = claim()
    assert taken_at_last(successor)
    os.kill(other_process.pid, signal.SIGCONT)
    time.sleep(3 * BEAT_S)
    successor.check()
    assert not successor.lost
    assert content(mirror)["pid"] == os.getpid()


def test_check_finds_a_loss_before_the_next_beat(claim: Callable[..., Lease]) -> None:
    sleeper, successor = claim(beat_s=600.0), claim()
    assert sleeper.try_acquire()
    assert taken_at_last(successor)
    assert not sleeper.lost  # it does not know
    with pytest.raises(OutputError, match="was taken over by another run"):
        sleeper.check()
    assert sleeper.lost
    sleeper.release()
    successor.check()
    assert successor.held


def test_a_loss_that_check_found_is_final(claim: Callable[..., Lease], mirror: Mirror) -> None:
    told: list[int] = []
    sleeper, successor = claim(lease_s=0.5, beat_s=1.5, on_lost=lambda: told.append(1)), claim(lease_s=0.5)
    assert sleeper.try_acquire()
    assert taken_at_last(successor)
    with pytest.raises(OutputError, match="was taken over"):
        sleeper.check()
    successor.release()
    assert becomes(lambda: told == [1])
    assert content(mirror) == {}  # it takes nothing back by itself


def test_an_outage_starts_the_watch_anew(tmp_path: Path, claim: Callable[..., Lease]) -> None:
    with s3_server() as own:
        config = {"retries": {"max_attempts": 1}}
        mirror = Mirror(own.root, LOCAL, own.options | {"config_kwargs": config}, patience_s=0.5)
        content = b'{"holder": "cut off"}'
        mirror.write(LOCAL / "work/lock", content)
        observer = claim(mirror=mirror)
        assert not observer.try_acquire()
        own.stop()
        with pytest.raises(OutputError, match="has not answered"):
            observer.try_acquire()
        own.start()
        mirror.write(LOCAL / "work/lock", content)
        time.sleep(LEASE_S)
        assert not observer.try_acquire()
        assert taken_at_last(observer)
        observer.release()


def test_the_thread_tells_of_a_loss_once(claim: Callable[..., Lease]) -> None:
    told: list[int] = []
    sleeper, successor = claim(beat_s=2 * LEASE_S, on_lost=lambda: told.append(1)), claim()
    assert sleeper.try_acquire()
    assert taken_at_last(successor)
    assert becomes(lambda: sleeper.lost)
    assert becomes(lambda: told != [])
    assert not sleeper.try_acquire()
    successor.release()
    assert sleeper.try_acquire()
    assert not sleeper.lost
    assert told == [1]


def test_a_lease_that_somebody_removed_is_lost(claim: Callable[..., Lease], mirror: Mirror) -> None:
    lease = claim()
    assert lease.try_acquire()
    mirror.remove(LOCAL / "work")
    assert becomes(lambda: lease.lost)


def race(url: str, options: dict[str, Any], barrier: Any, num_rounds: int, wins: Any) -> None:
    mirror = Mirror(url, LOCAL, options)
    for i in range(num_rounds):
        # Even rounds are for a lease that is not there, odd ones for one whose holder is dead.
        lease = Lease(mirror, LOCAL / f"{i}", lease_s=1e-9 if i % 2 else 600.0, beat_s=600.0)
        if i % 2:
            assert not lease.try_acquire()
        barrier.wait(60)
        wins.put((i, lease.try_acquire()))
        barrier.wait(60)


def test_of_racing_processes_one_wins(server: S3Server, mirror: Mirror) -> None:
    num_rounds, num_racers = 20, 2
    for i in range(1, num_rounds, 2):
        mirror.write(LOCAL / f"{i}", b'{"holder": "dead"}')
    barrier, wins = spawn.Barrier(num_racers), spawn.Queue()
    arguments = (mirror.store.url, server.options, barrier, num_rounds, wins)
    racers = [spawn.Process(target=race, args=arguments, daemon=True) for _ in range(num_racers)]
    for racer in racers:
        racer.start()
    results = [wins.get(timeout=60) for _ in range(num_rounds * num_racers)]
    for racer in racers:
        racer.join()
        assert racer.exitcode == 0
    assert [sum(won for which, won in results if which == i) for i in range(num_rounds)] == [1] * num_rounds


def test_a_pause_of_the_store_is_not_the_holders_death(
    claim: Callable[..., Lease], server: S3Server, mirror: Mirror
) -> None:
    holder, other = claim(), claim()
    assert holder.try_acquire()
    assert not other.try_acquire()
    server.pause()
    threading.Timer(2 * LEASE_S, server.resume).start()
    assert never_taken(other, 4 * LEASE_S)
    holder.check()
    assert not holder.lost


def test_a_lost_answer_loses_no_lease(claim: Callable[..., Lease], server: S3Server, mirror: Mirror) -> None:
    cuts: list[bytes] = []
    answers = 0

    def cut_now_and_then(data: bytes) -> bytes | None:
        nonlocal answers
        if b"ETag" in data:  # the server has written: every second client never hears of it
            answers += 1
            if answers % 2:
                cuts.append(data)
                return None
        return data

    with wire(server.port, on_answer=cut_now_and_then) as url:
        broken = Mirror(mirror.store.url, LOCAL, server.options | {"endpoint_url": url})
        lease = claim(mirror=broken)
        assert lease.try_acquire()
        assert becomes(lambda: content(mirror)["beat"] >= 3)
        lease.check()
        assert not lease.lost
        lease.release()
    assert len(cuts) >= 2
    assert content(mirror) == {}


@pytest.mark.parametrize("header", [b"If-None-Match", b"If-Match"])
def test_a_store_without_conditions_is_refused(
    claim: Callable[..., Lease], server: S3Server, mirror: Mirror, header: bytes
) -> None:
    def ignore(data: bytes) -> bytes:
        return data.replace(header + b":", b"X" * len(header) + b":")

    with wire(server.port, on_request=ignore) as url:
        lax = Mirror(mirror.store.url, LOCAL, server.options | {"endpoint_url": url})
        with pytest.raises(OutputError, match=rf"this store ignores {header.decode()}, so two runs"):
            claim(mirror=lax).try_acquire()


def test_what_is_no_lease_is_held_by_nobody_known(claim: Callable[..., Lease], mirror: Mirror) -> None:
    mirror.write(LOCAL / "work/lock", b"\xff[]")
    lease = claim()
    assert not lease.try_acquire()
    assert lease.holder == {}
    assert taken_at_last(lease)
    assert lease.num_lost == 1
