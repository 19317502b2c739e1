"""Helpers that read the results of commands and flow runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.states import State

Run = Callable[..., tuple[int, str, str]]  # arguments → exit code, stdout, stderr


def the_line(err: str) -> str:
    """Return the last line of stderr; assert that it alone reports an error."""
    assert "Traceback" not in err
    *before, last = err.splitlines()
    assert not [line for line in before if line.startswith("dual-sampling: ")]
    return last.removeprefix("dual-sampling: ")


def artifacts_of(state: State[Any]) -> dict[str, str]:
    """Return a flow run's Prefect artifacts by key."""
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id])), limit=200
        )
    return {str(artifact.key): str(artifact.data) for artifact in found}
