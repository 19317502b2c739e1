"""Tests of the reports of a run's end: one event, one line of the log."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Crashed

from flows.orchestration.events import CANCELLED, FAILED, PUBLISHED, REFUSED, label_run, report_end, report_published
from sampling.errors import RefusedError
from tasks.config import PipelineConfig
from tasks.run.folder import RunFolder
from tests.tasks.runs import make_config

pytestmark = pytest.mark.slow
LIMIT_S = 60.0  # the server writes its events every 5 s
FOLDER = RunFolder(Path("/"), "d", "v1", {})
ERRORS = {
    "refused": RefusedError("eos_rate 0.1 (limit ≥ 1)"),
    "failed": OSError("no disk"),
    "stopped": KeyboardInterrupt(),
}
# States that a worker sets for its process; it holds the flow run as it was at its start.
FROM_A_WORKER: dict[str, State[Any]] = {"cancelled": Cancelled(message="by hand"), "killed": Crashed(message="SIGKILL")}
MANIFEST: dict[str, Any] = {"version": "v1", "num_rows": 10, "quarantine": {"bad_row": 1}}
ENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "published": (
        PUBLISHED,
        {
            "reason": "10 rows in /data/d/v1",
            "version": "v1",
            "path": "/data/d/v1",
            "num_rows": 10,
            "num_quarantined": 1,
        },
    ),
    "refused": (REFUSED, {"reason": "RefusedError: eos_rate 0.1 (limit ≥ 1)", "state": "Failed"}),
    "failed": (FAILED, {"reason": "OSError: no disk", "state": "Failed"}),
    "stopped": (CANCELLED, {"reason": "Execution was aborted by an interrupt signal.", "state": "Crashed"}),
    "cancelled": (CANCELLED, {"reason": "by hand", "state": "Cancelled"}),
    "killed": (FAILED, {"reason": "SIGKILL", "state": "Crashed"}),
}


@flow(name="produce", on_failure=[report_end], on_crashed=[report_end], on_cancellation=[report_end])
def produce(config: PipelineConfig, end: str) -> None:
    """End in the given way."""
    label_run(FOLDER)
    if end in ERRORS:
        raise ERRORS[end]
    if end == "published":
        report_published("/data/d/v1", MANIFEST)


class Lines(logging.Handler):
    """A handler that keeps the log's records of a run's end."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "event"):
            self.found.append(record)


@pytest.fixture(scope="module")
def reports(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Any]]:
    """The one event and the one log record of a flow run for each end."""
    config = make_config(tmp_path_factory.mktemp("hooks"))
    runs: dict[str, UUID] = {}
    lines = Lines()
    logger = logging.getLogger("prefect.flow_runs")
    logger.addHandler(lines)
    for end in ENDS:
        if end == "stopped":
            with pytest.raises(KeyboardInterrupt):
                produce(config, end)
        else:
            state = produce(config, end, return_state=True)
            assert state.state_details.flow_run_id is not None
            if end in FROM_A_WORKER:
                with get_client(sync_client=True) as client:
                    flow_run = client.read_flow_run(state.state_details.flow_run_id)
                flow_run.labels = {}
                report_end(produce, flow_run, FROM_A_WORKER[end])
        runs[end] = UUID(lines.found[-1].flow_run_id)
    logger.removeHandler(lines)
    assert len(set(runs.values())) == len(lines.found) == len(ENDS)
    events = our_events(list(runs.values()))
    return {end: (events[run], line) for (end, run), line in zip(runs.items(), lines.found, strict=True)}


def our_events(runs: list[UUID]) -> dict[UUID, dict[str, Any]]:
    """The one event of each flow run, as soon as the server has them; other tests' runs have events, too."""
    ids = {f"prefect.flow-run.{run}": run for run in runs}
    wanted = {"event": {"prefix": ["dual-sampling."]}, "any_resource": {"id": list(ids)}}
    deadline = time.monotonic() + LIMIT_S
    with get_client(sync_client=True) as client:
        while True:
            found = client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]
            # Ours is first; Prefect adds the run in which this process emitted its first event.
            named = [(first_run_of(event), event) for event in found]
            pairs = [(ids[run], event) for run, event in named if run in ids]
            if len(pairs) >= len(runs):
                break
            assert time.monotonic() < deadline
            time.sleep(0.2)
    events = dict(pairs)
    assert len(events) == len(pairs)
    return events


def first_run_of(event: dict[str, Any]) -> str:
    return next(item["prefect.resource.id"] for item in event["related"] if item["prefect.resource.role"] == "flow-run")


@pytest.mark.parametrize("end", ENDS)
def test_each_end_is_one_event_and_one_line(reports: dict[str, tuple[dict[str, Any], Any]], end: str) -> None:
    name, payload = ENDS[end]
    event, line = reports[end]
    run_id = FOLDER.run_id[:12]
    assert event["event"] == line.event == name
    assert event["resource"] == {"prefect.resource.id": "dual-sampling.dataset.d", "prefect.resource.name": "d"}
    assert event["payload"] == {"dataset": "d", "run_id": run_id, **payload}
    assert (line.dataset, line.run_id, line.reason) == ("d", run_id, payload["reason"])
    assert line.getMessage() == f"{name} of d: {payload['reason']}"


def test_a_failing_report_does_not_fail_the_run(prefect_server: str, caplog: pytest.LogCaptureFixture) -> None:
    nobody = FlowRun(flow_id=UUID(int=0), parameters={"config": None})  # no such run on the server
    report_end(produce, nobody, Crashed(message="x"))
    label_run(FOLDER)  # in no flow run
    assert caplog.text.count("Prefect was not told") == 2
