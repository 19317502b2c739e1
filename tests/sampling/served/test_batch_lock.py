"""BatchKindLock: mutual exclusion of the kinds, fairness, cancellation."""

from __future__ import annotations

import asyncio
import random

from sampling.served.batch_lock import BatchKindLock
from sampling.served.client import ModelClient
from tests.sampling.served.conftest import FAST


async def test_kinds_exclude_each_other_and_all_requests_enter() -> None:
    lock, inside, most = BatchKindLock(), {False: 0, True: 0}, {False: 0, True: 0}
    chance = random.Random(0)

    async def work(kind: bool) -> None:
        await asyncio.sleep(chance.random() * 0.01)
        async with lock.hold(kind):
            inside[kind] += 1
            most[kind] = max(most[kind], inside[kind])
            assert not inside[not kind]
            await asyncio.sleep(chance.random() * 0.005)
            assert not inside[not kind]
            inside[kind] -= 1

    await asyncio.wait_for(asyncio.gather(*(work(chance.random() < 0.5) for _ in range(400))), 30)
    assert min(most.values()) > 5  # several at once


async def test_waiting_requests_are_not_overtaken_and_enter_together() -> None:
    lock, order = BatchKindLock(), []
    proceed = asyncio.Event()

    async def work(name: str, kind: bool) -> None:
        async with lock.hold(kind):
            order.append(name)
            await proceed.wait()

    tasks = []
    for name, kind in (("a", False), ("b", True), ("c", True), ("d", False)):
        tasks.append(asyncio.create_task(work(name, kind)))
        await asyncio.sleep(0)
    assert order == ["a"]  # d came after b, which waits
    proceed.set()
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c", "d"]


async def test_cancelled_requests_release_the_lock() -> None:
    chance = random.Random(1)
    lock, inside = BatchKindLock(), {False: 0, True: 0}

    async def work(kind: bool) -> None:
        async with lock.hold(kind):
            inside[kind] += 1
            try:
                assert not inside[not kind]
                await asyncio.sleep(chance.random() * 0.003)
            finally:
                inside[kind] -= 1

    tasks = []
    for _ in range(300):
        tasks.append(asyncio.create_task(work(chance.random() < 0.5)))
        if chance.random() < 0.5:
            await asyncio.sleep(0)
        if chance.random() < 0.4:
            chance.choice(tasks).cancel()
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert {type(outcome) for outcome in outcomes} == {type(None), asyncio.CancelledError}
    async with asyncio.timeout(5):
        for kind in (True, False):
            await work(kind)


def test_two_models_on_one_server_share_its_lock() -> None:
    theta = ModelClient("theta", ["http://a:1", "http://b:2/v1"], FAST)
    teacher = ModelClient("teacher", ["http://b:2", "http://c:3"], FAST)
    theta.share_batch_locks(teacher)
    locks = {
        (client.name, replica.url): replica.batch_lock
        for client in (theta, teacher)
        for replica in client._replicas.all
    }
    assert locks["theta", "http://b:2"] is locks["teacher", "http://b:2"]
    assert len(set(locks.values())) == 3
