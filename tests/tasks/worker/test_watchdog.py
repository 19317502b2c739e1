"""Tests of the watchdog: an idle engine is ended, a slow one is not."""

from __future__ import annotations

import pytest

from sampling.errors import EngineError, EngineStalledError
from tasks.worker.watchdog import Watchdog


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_of_any_kind_starts_the_wait_anew() -> None:
    clock = Clock()
    watchdog = Watchdog(10.0, clock)
    for progress in ((0, 0), (0, 1), (1, 1), (1, 2)):
        clock.now += 9.9
        watchdog.see(progress)
        clock.now += 9.9
        watchdog.see(progress)


def test_no_progress_within_the_limit_is_an_error_that_a_fresh_engine_may_cure() -> None:
    clock = Clock()
    watchdog = Watchdog(10.0, clock)
    watchdog.see((5, 5))
    clock.now += 9.9
    watchdog.see((5, 5))
    clock.now += 0.1
    with pytest.raises(EngineStalledError, match=r"for 10 s.*shards\.stall_timeout_s"):
        watchdog.see((5, 5))
    assert issubclass(EngineStalledError, EngineError)


def test_a_machine_that_slept_has_not_watched() -> None:
    clock = Clock()
    watchdog = Watchdog(10.0, clock)
    watchdog.see((5, 5))
    clock.now += 3600.0
    watchdog.see((5, 5))
    clock.now += 9.0
    watchdog.see((5, 5))
    clock.now += 1.0
    with pytest.raises(EngineStalledError):
        watchdog.see((5, 5))
