"""Tests of leases on a real S3 server, with holders that are killed, stopped, raced or cut off."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.store.lease import Lease
from tasks.store.mirror import Mirror
from tests.tasks.store.s3 import S3Server
from tests.tasks.store.wire import wire

LOCAL = Path("/nowhere")  # a lease makes no local file
LEASE_S, BEAT_S = 2.5, 0.4
pytestmark = pytest.mark.slow
spawn = multiprocessing.get_context("spawn")


@pytest.fixture
def mirror(server: S3Server, root: str) -> Mirror:
    return Mirror(root, LOCAL, server.options)


@pytest.fixture
def claim(mirror: Mirror) -> Iterator[Callable[..., Lease]]:
    """Create claims on one object; each is released at the end."""
    made = []

    def make(lease_s: float = LEASE_S, beat_s: float = BEAT_S, **options: Any) -> Lease:
        lease = Lease(options.pop("mirror", mirror), LOCAL / "work/lock", lease_s=lease_s, beat_s=beat_s, **options)
        made.append(lease)
        return lease

    yield make
    for lease in made:
        lease.release()


def is_taken(lease: Lease, limit_s: float = 30.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not lease.try_acquire():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def is_never_taken(lease: Lease, seconds: float) -> bool:
    return not is_taken(lease, seconds)


def becomes(condition: Callable[[], bool], limit_s: float = 30.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def content(mirror: Mirror) -> dict[str, Any]:
    return json.loads(mirror.read(LOCAL / "work/lock") or b"{}")


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


def test_a_killed_holders_lease_is_taken(claim: Callable[..., Lease], other_process: Any, mirror: Mirror) -> None:
    watching = claim()
    assert is_never_taken(watching, 2 * LEASE_S)
    other_process.kill()
    assert is_taken(watching)
    assert watching.num_lost == content(mirror)["num_lost"] == 1
    assert content(mirror)["pid"] == os.getpid()


def test_a_stopped_holder_has_lost(claim: Callable[..., Lease], other_process: Any, mirror: Mirror) -> None:
    os.kill(other_process.pid, signal.SIGSTOP)
    successor = claim()
    assert is_taken(successor)
    os.kill(other_process.pid, signal.SIGCONT)
    time.sleep(3 * BEAT_S)
    successor.check()
    assert not successor.lost
    assert content(mirror)["pid"] == os.getpid()


def race(url: str, options: dict[str, Any], barrier: Any, num_rounds: int, wins: Any) -> None:
    mirror = Mirror(url, LOCAL, options)
    for i in range(num_rounds):
        # Even rounds race for a free lease, odd ones for one whose holder is dead.
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
    assert is_never_taken(other, 4 * LEASE_S)
    holder.check()
    assert not holder.lost


def test_a_lost_response_loses_no_lease(claim: Callable[..., Lease], server: S3Server, mirror: Mirror) -> None:
    cuts: list[bytes] = []
    num_responses = 0

    def cut_every_second(data: bytes) -> bytes | None:
        nonlocal num_responses
        if b"ETag" in data:  # the server has written
            num_responses += 1
            if num_responses % 2:
                cuts.append(data)
                return None
        return data

    with wire(server.port, on_answer=cut_every_second) as url:
        broken = Mirror(mirror.store.url, LOCAL, server.options | {"endpoint_url": url})
        lease = claim(mirror=broken)
        assert lease.try_acquire()
        assert becomes(lambda: content(mirror)["beat"] >= 3)
        lease.check()
        assert not lease.lost
        lease.release()
    assert len(cuts) >= 2
    assert content(mirror) == {}
