"""The end of a run, told so that a notification can be tied to it.

An automation's trigger names one of the events below; their resource is `dual-sampling.dataset.<name>`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.states import get_state_exception

from sampling.errors import RefusedError
from tasks.run.folder import RunFolder

PUBLISHED, REFUSED = "dual-sampling.run.published", "dual-sampling.run.refused"
FAILED, CANCELLED = "dual-sampling.run.failed", "dual-sampling.run.cancelled"
LEVELS = {PUBLISHED: logging.INFO, CANCELLED: logging.WARNING, REFUSED: logging.ERROR, FAILED: logging.ERROR}
RUN_LABEL = "dual-sampling.run"

logger = logging.getLogger(__name__)


def label_run(folder: RunFolder) -> None:
    """Put the run's identity on the current flow run: its hooks find it there, also in a worker's process."""
    with _harmless():
        flow_run = _current().flow_run
        assert flow_run is not None
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(flow_run.id, {RUN_LABEL: folder.run_id[:12]})
        flow_run.labels[RUN_LABEL] = folder.run_id[:12]


def report_published(dataset: str, manifest: Mapping[str, Any]) -> None:
    """Tell that the current flow run has published a dataset."""
    with _harmless():
        context = _current()
        assert context.flow_run is not None
        num_quarantined = sum(manifest["quarantine"].values())
        told = {"version": manifest["version"], "path": dataset, "num_quarantined": num_quarantined}
        reason = f"{manifest['num_rows']} rows in {dataset}"
        _tell(PUBLISHED, reason, context.flow, context.flow_run, num_rows=manifest["num_rows"], **told)


def report_end(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tell of a run that was refused, failed, crashed or was cancelled: a hook for all but completion."""
    with _harmless():
        event, reason = FAILED, state.message or state.name or "without a word"
        by_hand = isinstance(state.data, KeyboardInterrupt)  # Ctrl-C, which Prefect calls a crash
        if by_hand or state.is_cancelling() or state.is_cancelled():
            event = CANCELLED
        elif state.is_failed():
            error = get_state_exception(state)
            event = REFUSED if isinstance(error, RefusedError) else FAILED
            reason = f"{type(error).__name__}: {error}"
        _tell(event, reason, flow, flow_run, state=state.name)


def _tell(event: str, reason: str, flow: Flow[Any, Any] | None, flow_run: FlowRun, **told: Any) -> None:
    """One line of the run's log, with its facts as fields, and one event."""
    config = flow_run.parameters.get("config")  # as it was given to a deployment: perhaps no configuration at all
    name = str(config["name"]) if isinstance(config, dict) and "name" in config else "unnamed"
    facts = {"dataset": name, "run_id": _run_id(flow_run), "reason": reason, **told}
    flow_run_logger(flow_run, flow, event=event, **facts).log(LEVELS[event], "%s of %s: %s", event, name, reason)
    emit_event(
        event,
        resource={"prefect.resource.id": f"dual-sampling.dataset.{name}", "prefect.resource.name": name},
        related=[
            {
                "prefect.resource.id": f"prefect.flow-run.{flow_run.id}",
                "prefect.resource.role": "flow-run",
                "prefect.resource.name": flow_run.name,
            }
        ],
        payload=facts,
    )


def _run_id(flow_run: FlowRun) -> str | None:
    """12 digits; None for a run that ended before its identity was known."""
    labels = flow_run.labels
    if RUN_LABEL not in labels:  # a worker's process knows the labels of the beginning
        with get_client(sync_client=True) as client:
            labels = client.read_flow_run(flow_run.id).labels
    return str(labels[RUN_LABEL]) if RUN_LABEL in labels else None


def _current() -> FlowRunContext:
    context = FlowRunContext.get()
    assert context is not None, "called within a flow run"
    return context


@contextmanager
def _harmless() -> Iterator[None]:
    """A run's outcome stays what it is when telling of it fails."""
    try:
        yield
    except Exception:
        logger.warning("Prefect was not told how the run ended", exc_info=True)
