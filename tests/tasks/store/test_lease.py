"""Tests of leases on an in-memory S3, with a clock of their own."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampling.errors import OutputError
from tasks.store.lease import LEASE_S, Lease
from tasks.store.mirror import Mirror
from tests.tasks.store.memory import Clock, MemoryS3

LOCAL = Path("/nowhere")  # a lease makes no local file
NEVER_S = 600.0  # of real time: the renewing thread sleeps on; `check` renews too

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture
def mirror(s3: MemoryS3, root: str) -> Mirror:
    return s3.mirror(root, LOCAL)


@pytest.fixture
def claim(mirror: Mirror) -> Iterator[Callable[..., Lease]]:
    """Create claims on one object; each is released at the end."""
    leases = []

    def make(beat_s: float = NEVER_S, **options: Any) -> Lease:
        leases.append(Lease(mirror, LOCAL / "work/lock", beat_s=beat_s, **options))
        return leases[-1]

    yield make
    for lease in leases:
        lease.release()


@pytest.fixture
def content(mirror: Mirror) -> Callable[[], dict[str, Any]]:
    return lambda: json.loads(mirror.read(LOCAL / "work/lock") or b"{}")


Content = Callable[[], dict[str, Any]]


def take_over(lease: Lease, clock: Clock) -> None:
    assert not lease.try_acquire()
    clock.sleep(LEASE_S)
    assert lease.try_acquire()


def run_thread(lease: Lease) -> None:
    """Run the renewing thread's loop here, without its pauses, until the loss of the lease."""
    lease._beat_s = 0.0
    lease._renew_until(threading.Event())


def test_it_is_held_until_it_is_released(claim: Callable[..., Lease], content: Content) -> None:
    first, second = claim(facts={"shard": 3}), claim()
    with first:
        assert first.held
        first.check()
        assert not second.try_acquire()
        assert second.holder is not None
        assert second.holder["pid"] == os.getpid()
        assert second.holder["host"] == socket.gethostname()
        assert second.holder["shard"] == 3
        assert first.try_acquire()  # already held
    assert content() == {}
    assert second.try_acquire()
    assert (second.holder, second.num_lost) == (None, 0)
    with pytest.raises(OutputError, match="work/lock is not held"):
        first.check()
    first.release()
    assert content()["holder"]


def test_only_a_lease_that_is_not_renewed_is_taken(claim: Callable[..., Lease], content: Content, clock: Clock) -> None:
    holder, other = claim(), claim()
    assert holder.try_acquire()
    for _ in range(5):
        assert not other.try_acquire()
        clock.sleep(LEASE_S)
        holder.check()
    assert content()["beat"] == 5
    assert not other.try_acquire()
    clock.sleep(LEASE_S - 0.1)
    assert not other.try_acquire()
    clock.sleep(0.2)
    assert other.try_acquire()
    assert other.num_lost == content()["num_lost"] == 1


def test_the_thread_renews(claim: Callable[..., Lease], content: Content) -> None:
    assert claim(beat_s=0.01).try_acquire()
    deadline = time.monotonic() + 30.0
    while content()["beat"] < 3:
        assert time.monotonic() < deadline


def test_a_live_holder_is_named_or_waited_for(claim: Callable[..., Lease], clock: Clock) -> None:
    with claim() as holder:
        clock.on_sleep = holder.check
        message = rf"work/lock is held by another run \(pid {os.getpid()} on .+, since 20.+\); wait for it, end it"
        with pytest.raises(OutputError, match=message):
            claim().acquire()
        assert clock.now < 10.0
        clock.on_sleep = lambda: holder.check() if clock.now < 30.0 else holder.release()
        claim().acquire(wait_s=60.0)
        assert clock.now == pytest.approx(30.0, abs=1.5)


def test_acquire_waits_until_a_holder_is_known_to_be_dead(claim: Callable[..., Lease], clock: Clock) -> None:
    assert claim().try_acquire()
    with claim() as lease:
        assert lease.held
    assert clock.now == pytest.approx(LEASE_S, abs=1.5)


def test_check_finds_a_loss_before_the_thread(claim: Callable[..., Lease], clock: Clock, content: Content) -> None:
    calls: list[int] = []
    sleeper, successor = claim(on_lost=lambda: calls.append(1)), claim()
    assert sleeper.try_acquire()
    take_over(successor, clock)
    assert not sleeper.lost  # not known yet
    with pytest.raises(OutputError, match="was taken over by another run"):
        sleeper.check()
    assert sleeper.lost
    sleeper.release()
    successor.check()
    successor.release()
    run_thread(sleeper)
    assert calls == [1]
    assert content() == {}  # the thread does not take it back


def test_the_thread_reports_a_loss_once(claim: Callable[..., Lease], clock: Clock) -> None:
    calls: list[int] = []
    sleeper, successor = claim(on_lost=lambda: calls.append(1)), claim()
    assert sleeper.try_acquire()
    take_over(successor, clock)
    run_thread(sleeper)
    assert (calls, sleeper.lost) == ([1], True)
    assert not sleeper.try_acquire()
    successor.release()
    assert sleeper.try_acquire()
    assert not sleeper.lost
    assert calls == [1]


def test_a_lease_whose_object_was_removed_is_lost(claim: Callable[..., Lease], mirror: Mirror) -> None:
    lease = claim()
    assert lease.try_acquire()
    mirror.remove(LOCAL / "work")
    run_thread(lease)
    assert lease.lost


def test_an_outage_restarts_the_observation(claim: Callable[..., Lease], s3: MemoryS3, clock: Clock) -> None:
    assert claim().try_acquire()
    observer = claim()
    assert not observer.try_acquire()

    def fail(method: str, key: str) -> None:
        raise ConnectionRefusedError

    s3.before = fail
    with pytest.raises(OutputError, match="has not answered"):
        observer.try_acquire()
    s3.before = lambda method, key: None
    clock.sleep(LEASE_S)
    take_over(observer, clock)


def test_a_slow_response_restarts_the_observation(claim: Callable[..., Lease], s3: MemoryS3, clock: Clock) -> None:
    """The holder could not renew during the pause either."""
    assert claim().try_acquire()
    observer = claim(beat_s=5.0)
    assert not observer.try_acquire()

    def pause(method: str, key: str) -> None:
        clock.sleep(LEASE_S)

    s3.after = pause
    assert not observer.try_acquire()
    s3.after = lambda method, key: None
    assert not observer.try_acquire()
    clock.sleep(LEASE_S)
    assert observer.try_acquire()


def test_a_lost_response_loses_no_lease(claim: Callable[..., Lease], s3: MemoryS3, content: Content) -> None:
    lost: list[str] = []

    def lose_every_second(method: str, key: str) -> None:
        if method == "put_object":
            lost.append(key)
            if len(lost) % 2:
                raise ConnectionResetError

    s3.after = lose_every_second
    lease = claim()
    assert lease.try_acquire()
    for _ in range(3):
        lease.check()
    assert not lease.lost
    assert content()["beat"] >= 2
    lease.release()
    assert content() == {}
    assert len(lost) == 4  # two of the responses were lost


@pytest.mark.parametrize(("condition", "header"), [("IfNoneMatch", "If-None-Match"), ("IfMatch", "If-Match")])
def test_a_store_without_conditional_writes_is_refused(
    claim: Callable[..., Lease], s3: MemoryS3, condition: str, header: str
) -> None:
    s3.ignored_condition = condition
    with pytest.raises(OutputError, match=rf"this store ignores {header}, so two runs"):
        claim().try_acquire()


def test_an_object_that_is_no_lease_has_an_unknown_holder(
    claim: Callable[..., Lease], mirror: Mirror, clock: Clock
) -> None:
    mirror.write(LOCAL / "work/lock", b"\xff[]")
    lease = claim()
    assert not lease.try_acquire()
    assert lease.holder == {}
    take_over(lease, clock)
    assert lease.num_lost == 1
