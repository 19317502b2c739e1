"""Tests of the poller alone, with a fake of Prefect's client and the main thread's own SIGTERM handler."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect.states import Cancelled, Cancelling, Completed, Running

import flows.orchestration.cancellation
from flows.orchestration.cancellation import CancellationPoller

LIMIT_S = 60.0  # an idle machine takes milliseconds


@pytest.fixture
def sigterms() -> Iterator[list[int]]:
    """The SIGTERMs that the main thread has received."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("answers", "is_interrupted"),
    [
        ([Running(), Cancelling(), Cancelling()], True),
        ([ValueError("<html>"), Cancelled(), Cancelled()], True),
        ([Cancelling(), Running(), Cancelling(), None], False),
        ([Running(), OSError("gone"), Completed()], False),
    ],
    ids=["cancelling", "after a failed request", "set back before the second time", "not cancelled"],
)
def test_a_run_is_interrupted_when_it_is_cancelled_twice_in_a_row(
    answers: list[Any], is_interrupted: bool, sigterms: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    poller, remaining = CancellationPoller(UUID(int=0)), iter(answers)

    def read_flow_run(run: UUID) -> Any:
        try:
            answer = next(remaining)
        except StopIteration:
            poller.close()
            raise
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(state=answer)

    client = SimpleNamespace(read_flow_run=read_flow_run)
    monkeypatch.setattr(flows.orchestration.cancellation, "get_client", lambda **_: nullcontext(client))
    monkeypatch.setattr(flows.orchestration.cancellation, "POLL_S", 0.0)
    poller.start()
    for thread in threading.enumerate():
        if thread.name == "cancellation-poller":
            thread.join(LIMIT_S)
    assert poller.has_interrupted == is_interrupted
    assert sigterms == [signal.SIGTERM] * is_interrupted
