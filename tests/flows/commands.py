"""What a command has done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.states import State

Run = Callable[..., tuple[int, str, str]]  # arguments → exit code, stdout, stderr


def the_line(err: str) -> str:
    """The last line of stderr, which is the only one that speaks of an error."""
    assert "Traceback" not in err
    *before, last = err.splitlines()
    assert not [line for line in before if line.startswith("dual-sampling: ")]
    return last.removeprefix("dual-sampling: ")


def artifacts_of(state: State[Any]) -> dict[str, str]:
    """What a flow run has put on Prefect's pages, by key."""
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id])), limit=200
        )
    return {str(artifact.key): str(artifact.data) for artifact in found}
