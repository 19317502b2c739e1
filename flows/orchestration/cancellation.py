"""A run's own ear for its cancellation on Prefect's pages.

A run's worker hears of it first, ends the process and says so. Where the server was gone for a minute, a worker of
Prefect 3.7 never listens again ("Cancellation polling task failed"); a run that a command started has no worker at all.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import Abort, TerminationSignal
from prefect.flows import Flow
from prefect.states import Cancelled, Cancelling, Running

logger = logging.getLogger(__name__)

ASK_EVERY_S = 3.0  # one row of the server's database
TIMEOUT_S = 30.0  # of one answer; nobody waits for it
MESSAGE = "cancelled by somebody"


@contextmanager
def heeds_cancellation() -> Iterator[None]:
    """Ends the current flow run, as its worker would, when it is cancelled and no worker does.

    To be entered by the flow's function before all else. Raises prefect.exceptions.Abort after the flow's hooks for a
    cancellation; the flow run is Cancelled then.
    """
    context = FlowRunContext.get()
    assert context is not None, "entered within a flow run"
    assert context.flow is not None
    assert context.flow_run is not None
    run = context.flow_run.id
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone, and so does a worker's
        _restore_outcome(run)
        return
    ear = _Ear(run)
    try:
        try:
            yield
        finally:
            ear.close()
    except TerminationSignal:
        if not ear.has_heard:
            raise  # a worker's, or somebody's kill
        logger.warning("cancelled on Prefect's pages")
        _finalize_cancelled(context.flow, run)
        raise Abort(MESSAGE) from None
    except Exception:
        _restore_outcome(run)
        raise
    _restore_outcome(run)


class _Ear:
    """Asks Prefect's server from a thread of its own; interrupts the main thread."""

    def __init__(self, flow_run: UUID) -> None:
        self.has_heard = False
        self._flow_run = flow_run
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=copy_context().run, args=(self._listen,), name="ear", daemon=True).start()

    def close(self) -> None:
        """Interrupts nobody from now on."""
        with self._lock:
            self._closed.set()

    def _listen(self) -> None:
        # Settings of its own make it a client of its own: the flow's is used by the flow's thread.
        with get_client(httpx_settings={"timeout": TIMEOUT_S}, sync_client=True) as client:
            num_seen = 0  # a worker that listens has told the process before the second time
            while num_seen < 2:
                if self._closed.wait(ASK_EVERY_S):
                    return
                try:
                    state = client.read_flow_run(self._flow_run).state
                except Exception:
                    continue  # whatever is the matter with Prefect, the run goes on
                num_seen = num_seen + 1 if state is not None and (state.is_cancelling() or state.is_cancelled()) else 0
        with self._lock:
            if not self._closed.is_set() and not _has_been_told():
                self.has_heard = True
                os.kill(os.getpid(), signal.SIGTERM)  # as a worker does it; Prefect raises TerminationSignal


def _has_been_told() -> bool:
    """Whether a worker has told this process to end: it may take half a minute for its last commit."""
    try:
        from prefect._internal.control_listener import get_intent
    except ImportError:  # private to Prefect, as of 3.7
        return False
    return get_intent() is not None


def _finalize_cancelled(flow: Flow[Any, Any], run: UUID) -> None:
    """What a worker would do: the hooks, then the state."""
    with get_client(sync_client=True) as client:
        for hook in flow.on_cancellation_hooks:
            try:
                flow_run = client.read_flow_run(run)
                hook(flow, flow_run, flow_run.state or Cancelling())
            except Exception:  # the next one, and the state, are no less due
                logger.warning("a hook for the cancellation failed", exc_info=True)
        try:
            client.set_flow_run_state(run, Cancelled(message=MESSAGE), force=True)
        except Exception:
            logger.warning("Prefect was not told that the run ends", exc_info=True)


def _restore_outcome(run: UUID) -> None:
    """Lets a run that ended before it heard of its cancellation say how: from Cancelling Prefect takes no other end."""
    if _has_been_told():
        return  # a worker says how
    with suppress(Exception), get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
        if state is not None and state.is_cancelling():
            client.set_flow_run_state(run, Running(message="it ended before it heard of its cancellation"), force=True)
