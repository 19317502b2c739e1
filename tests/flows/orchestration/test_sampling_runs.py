"""Tests of what a run asks Prefect for, without a worker; tests/flows/production has the rest, with workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from flows.orchestration.sampling_runs import SamplingRuns
from flows.sample_shards import sample_shards
from sampling.errors import ConfigurationError
from tasks.run.folder import RunFolder
from tasks.store.durable import sha256_of
from tests.tasks.runs import make_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def test_a_missing_deployment_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has no deployment 'no/such'.*prefect deploy --all"):
        SamplingRuns("no/such", RunFolder(tmp_path, "d", "v", {}))


def test_a_run_is_told_which_configuration_it_samples_for(tmp_path: Path) -> None:
    """Those of an earlier process that still wait are cancelled: they were told another one."""
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="told", type="process"))
        flow_id = client.create_flow(sample_shards)
        client.create_deployment(flow_id, "told", work_pool_name="told")
    folder = RunFolder(tmp_path, "d", "v", {})
    folder.work.mkdir(parents=True)
    states = []
    for retries in (1, 2):
        folder.write_run(make_config(tmp_path, shards={"retries": retries}), {})
        runs = SamplingRuns("sample-shards/told", folder)
        runs.start()
        (run,) = runs.read()
        assert run.parameters == {"work": str(folder.work), "run_sha256": sha256_of(folder.work / "run.json")}
        states.append(run.id)
    assert len(set(states)) == 2
    with get_client(sync_client=True) as client:
        earlier = client.read_flow_run(states[0])
    assert earlier.state is not None
    assert earlier.state.is_cancelled()
