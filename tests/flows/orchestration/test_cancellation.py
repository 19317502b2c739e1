"""Tests of the cancellation poller: runs without a worker, cancelled on Prefect's pages."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import Abort, TerminationSignal
from prefect.flows import Flow
from prefect.runtime import flow_run
from prefect.states import Cancelled, Cancelling, Running

import flows.orchestration.cancellation
from flows.orchestration.cancellation import cancellation_polling
from flows.produce import run_produce
from sampling.errors import RunCancelledError
from tests.flows.small_run import config_of, engine_pids, folder_of, in_background, parts_of, wait_until

WAIT_S = 60.0  # what an idle machine does in 1 s
hook_calls: list[tuple[UUID, str]] = []
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def note(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    hook_calls.append((flow_run.id, state.name or ""))


@flow(name="waits", on_cancellation=[note])
def waits(during: Callable[[], object], wait_s: float) -> str:
    """Call `during`, then sleep."""
    with cancellation_polling():
        during()
        time.sleep(wait_s)
        return "done"


@pytest.fixture(autouse=True)
def frequent_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.orchestration.cancellation, "POLL_S", 0.1)
    hook_calls.clear()


def run_id() -> UUID:
    return UUID(str(flow_run.id))


def state_of(run: UUID) -> State[Any]:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
    assert state is not None
    return state


def set_state(run: UUID, state: State[Any]) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, state, force=True)


def fails(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    raise RuntimeError("a bad hook")


@pytest.mark.parametrize("state", [Cancelling(), Cancelled()])
def test_a_cancelled_run_ends_itself_as_its_worker_would(state: State[Any]) -> None:
    ids: list[UUID] = []

    def cancel() -> None:
        ids.append(run_id())
        set_state(ids[0], state)

    begun = time.monotonic()
    with pytest.raises(Abort, match="cancelled by somebody"):
        waits(cancel, WAIT_S)
    assert time.monotonic() - begun < WAIT_S
    assert hook_calls == [(ids[0], state.name)]
    assert state_of(ids[0]).is_cancelled()


def test_a_worker_gets_time_to_cancel_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is set back before the second poll, and so nothing ends the run; fails if that takes 1.5 s."""
    monkeypatch.setattr(flows.orchestration.cancellation, "POLL_S", 1.5)
    ids: list[UUID] = []

    def cancel_for_a_moment() -> None:
        ids.append(run_id())
        time.sleep(1.4)
        set_state(ids[0], Cancelling())
        time.sleep(0.2)
        set_state(ids[0], Running())

    assert waits(cancel_for_a_moment, 2.5) == "done"
    assert hook_calls == []
    assert state_of(ids[0]).is_completed()


def test_a_run_that_is_not_cancelled_ends_normally() -> None:
    assert waits(lambda: None, 0.5) == "done"
    with pytest.raises(OSError, match="no disk"):
        waits(lambda: (_ for _ in ()).throw(OSError("no disk")), 0.0)
    assert hook_calls == []


def test_a_kill_is_no_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    ids: list[UUID] = []

    def kill() -> None:
        ids.append(run_id())
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None)  # Prefect hands the signal on to whoever had it before
    try:
        with pytest.raises(TerminationSignal):
            waits(kill, WAIT_S)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert hook_calls == []
    assert state_of(ids[0]).is_crashed()


def test_a_run_that_its_worker_cancels_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker lets the clean-up take its time, and runs the hooks itself."""
    monkeypatch.setattr("prefect._internal.control_listener.get_intent", lambda: "cancel")
    assert waits(lambda: set_state(run_id(), Cancelling()), 1.0) == "done"


def test_a_failing_hook_stops_neither_the_next_nor_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "on_cancellation_hooks", [fails, note])
    ids: list[UUID] = []

    def cancel() -> None:
        ids.append(run_id())
        set_state(ids[0], Cancelling())

    with pytest.raises(Abort):
        waits(cancel, WAIT_S)
    assert hook_calls == [(ids[0], "Cancelling")]
    assert state_of(ids[0]).is_cancelled()


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_that_ends_before_the_poll_keeps_its_outcome(fails: bool) -> None:
    ids: list[UUID] = []

    def cancel_and_end() -> None:
        ids.append(run_id())
        set_state(ids[0], Cancelling())
        if fails:
            raise OSError("no disk")

    with pytest.raises(OSError, match="no disk") if fails else nullcontext():
        assert waits(cancel_and_end, 0.0) == "done"
    assert state_of(ids[0]).is_failed() if fails else state_of(ids[0]).is_completed()
    assert hook_calls == []


def test_a_failed_poll_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a proxy's page: the poller asks again."""
    ask, answers = SyncPrefectClient.read_flow_run, iter([ValueError("<html>"), httpx.ConnectError("gone")])

    def ask_or_fail(client: SyncPrefectClient, run: UUID) -> FlowRun:
        if threading.current_thread().name == "cancellation-poller" and (error := next(answers, None)) is not None:
            raise error
        return ask(client, run)

    monkeypatch.setattr(SyncPrefectClient, "read_flow_run", ask_or_fail)
    with pytest.raises(Abort):
        waits(lambda: set_state(run_id(), Cancelling()), WAIT_S)
    assert next(answers, None) is None


def test_a_run_outside_the_main_thread_is_not_interrupted() -> None:
    """Signals reach the main thread alone, which does other work."""
    results: list[tuple[str, UUID]] = []

    def cancel() -> None:
        ids.append(run_id())
        set_state(ids[0], Cancelling())

    ids: list[UUID] = []
    thread = threading.Thread(target=lambda: results.append((waits(cancel, 1.0), ids[0])))
    thread.start()
    thread.join()
    assert results == [("done", ids[0])]
    assert state_of(ids[0]).is_completed()


def test_a_command_that_is_cancelled_keeps_what_is_finished(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    config = config_of(tmp_path, tiny_pair)
    config = config.model_copy(update={"sampling": config.sampling.model_copy(update={"n": 100})})  # minutes of work
    folder = folder_of(config)
    ids: list[UUID] = []

    def cancel() -> None:
        wait_until(lambda: parts_of(folder))
        with get_client(sync_client=True) as client:
            (newest,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
        ids.append(newest.id)
        set_state(newest.id, Cancelling())

    with (
        in_background(cancel),
        pytest.raises(RunCancelledError, match="what is finished is kept, and the same command"),
    ):
        run_produce(config)
    assert engine_pids() == []
    assert state_of(ids[0]).is_cancelled()
    assert parts_of(folder)
