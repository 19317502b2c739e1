"""The Prefect events of a run's end, for automations that notify somebody.

An automation's trigger names one of the events below; their resource is `dual-sampling.dataset.<name>`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.states import get_state_exception

from flows.orchestration.logs import warn_on_error
from sampling.errors import RefusedError
from tasks.run.folder import RunFolder

PUBLISHED, REFUSED = "dual-sampling.run.published", "dual-sampling.run.refused"
FAILED, CANCELLED = "dual-sampling.run.failed", "dual-sampling.run.cancelled"
LEVELS = {PUBLISHED: logging.INFO, CANCELLED: logging.WARNING, REFUSED: logging.ERROR, FAILED: logging.ERROR}
RUN_LABEL = "dual-sampling.run"
NOT_REPORTED = "Prefect was not told how the run ended"


def label_run(folder: RunFolder) -> None:
    """Label the current flow run with its run id, where its hooks find it, also in a worker's process."""
    with warn_on_error(NOT_REPORTED):
        _, flow_run = _current()
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(flow_run.id, {RUN_LABEL: folder.run_id[:12]})
        flow_run.labels[RUN_LABEL] = folder.run_id[:12]


def report_published(dataset: str, manifest: Mapping[str, Any]) -> None:
    """Emit that the current flow run has published a dataset."""
    with warn_on_error(NOT_REPORTED):
        facts = {
            "version": manifest["version"],
            "path": dataset,
            "num_rows": manifest["num_rows"],
            "num_quarantined": sum(manifest["quarantine"].values()),
        }
        _emit(PUBLISHED, f"{manifest['num_rows']} rows in {dataset}", *_current(), **facts)


def report_end(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Emit that a run was refused, failed, crashed or was cancelled: a hook for every end but completion."""
    with warn_on_error(NOT_REPORTED):
        event, reason = FAILED, state.message or state.name or "without a word"
        is_ctrl_c = isinstance(state.data, KeyboardInterrupt)  # a crash to Prefect
        if is_ctrl_c or state.is_cancelling() or state.is_cancelled():
            event = CANCELLED
        elif state.is_failed():
            error = get_state_exception(state)
            event = REFUSED if isinstance(error, RefusedError) else FAILED
            reason = f"{type(error).__name__}: {error}"
        _emit(event, reason, flow, flow_run, state=state.name)


def _emit(event: str, reason: str, flow: Flow[Any, Any] | None, flow_run: FlowRun, **facts: Any) -> None:
    """Write one line of the run's log, with its facts as fields, and emit one event with them as payload."""
    config = flow_run.parameters.get("config")  # the deployment's parameter, not validated: may be anything
    name = str(config["name"]) if isinstance(config, dict) and "name" in config else "unnamed"
    facts = {"dataset": name, "run_id": _run_id(flow_run), "reason": reason, **facts}
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
    """Return the run id's first 12 digits; None for a run that ended before it was known."""
    labels = flow_run.labels
    if RUN_LABEL not in labels:  # a worker's process holds the labels of the run's start
        with get_client(sync_client=True) as client:
            labels = client.read_flow_run(flow_run.id).labels
    return str(labels[RUN_LABEL]) if RUN_LABEL in labels else None


def _current() -> tuple[Flow[Any, Any] | None, FlowRun]:
    context = FlowRunContext.get()
    assert context is not None, "called within a flow run"
    assert context.flow_run is not None
    return context.flow, context.flow_run
