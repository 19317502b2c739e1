"""A poller that ends a flow run which was cancelled on Prefect's pages and which no worker ends.

A run that a command started has no worker. A worker of Prefect 3.7 stops polling for good after three failed requests,
half a minute without its server ("Cancellation polling task failed"). PREFECT_RUNNER_CRASH_ON_CANCELLATION_FAILURE is
no substitute: after those three it kills every run of the worker, cancelled or not, and they become Crashed.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import Abort, TerminationSignal
from prefect.flows import Flow
from prefect.states import Cancelled, Cancelling, Running

from flows.orchestration.logs import warn_on_error

logger = logging.getLogger(__name__)

POLL_S = 3.0  # a request reads one row of the server's database
TIMEOUT_S = 30.0  # of one request, which only the poller's thread waits for
MESSAGE = "cancelled by somebody"


@contextmanager
def cancellation_polling() -> Iterator[None]:
    """End the current flow run as its worker would, when it is cancelled and no worker does.

    Enter it first in the flow's function. Raises prefect.exceptions.Abort after the flow's hooks for a cancellation;
    the flow run is Cancelled then. Outside the main thread, which alone receives signals, a run is not interrupted.
    """
    context = FlowRunContext.get()
    assert context is not None, "entered within a flow run"
    assert context.flow is not None
    assert context.flow_run is not None
    run = context.flow_run.id
    poller = CancellationPoller(run)
    if threading.current_thread() is threading.main_thread():
        poller.start()
    try:
        try:
            yield
        finally:
            poller.close()
    except TerminationSignal:
        if not poller.has_interrupted:
            raise  # a worker's cancellation, or another process's SIGTERM
        logger.warning("cancelled on Prefect's pages")
        _finalize_cancelled(context.flow, run)
        raise Abort(MESSAGE) from None
    except Exception:
        _undo_cancelling(run)
        raise
    _undo_cancelling(run)


class CancellationPoller:
    """A thread that reads a flow run's state and interrupts the main thread, by SIGTERM, once it is cancelled."""

    def __init__(self, flow_run: UUID) -> None:
        self.has_interrupted = False
        self._flow_run = flow_run
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=copy_context().run, args=(self._poll,), name="cancellation-poller", daemon=True).start()

    def close(self) -> None:
        """Prevent any later interruption."""
        with self._lock:
            self._closed.set()

    def _poll(self) -> None:
        # Settings of its own make it a client of its own: the flow's is used by the flow's thread.
        with get_client(httpx_settings={"timeout": TIMEOUT_S}, sync_client=True) as client:
            num_seen = 0  # a worker that still polls interrupts the process before the second time
            while num_seen < 2:
                if self._closed.wait(POLL_S):
                    return
                try:
                    state = client.read_flow_run(self._flow_run).state
                except Exception as error:  # a failure of Prefect's never ends the run
                    logger.debug("Prefect does not say whether the run is cancelled: %s", error)
                    continue
                num_seen = num_seen + 1 if state is not None and (state.is_cancelling() or state.is_cancelled()) else 0
        with self._lock:
            if not self._closed.is_set() and not _is_cancelled_by_worker():
                self.has_interrupted = True
                os.kill(os.getpid(), signal.SIGTERM)  # as a worker does; Prefect raises TerminationSignal


def _is_cancelled_by_worker() -> bool:
    """Whether a worker has cancelled this process already: the last commit may take it half a minute."""
    try:
        from prefect._internal.control_listener import get_intent
    except ImportError:  # private to Prefect, as of 3.7
        return False
    return get_intent() is not None


def _finalize_cancelled(flow: Flow[Any, Any], run: UUID) -> None:
    """Run the flow's hooks, then set the state, as a worker would."""
    with get_client(sync_client=True) as client:
        for hook in flow.on_cancellation_hooks:
            with warn_on_error("a hook for the cancellation failed"):
                flow_run = client.read_flow_run(run)
                hook(flow, flow_run, flow_run.state or Cancelling())
        with warn_on_error("Prefect was not told that the run ends"):
            client.set_flow_run_state(run, Cancelled(message=MESSAGE), force=True)


def _undo_cancelling(run: UUID) -> None:
    """Set a run that ended before it was interrupted back to Running: Prefect refuses Completed after Cancelling."""
    if _is_cancelled_by_worker():
        return  # the worker sets the state
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run).state
            if state is not None and state.is_cancelling():
                message = "it ended before it heard of its cancellation"
                client.set_flow_run_state(run, Running(message=message), force=True)
    except Exception as error:  # a failure of Prefect's never ends the run
        logger.warning("Prefect does not say whether the run was cancelled: %s", error)
