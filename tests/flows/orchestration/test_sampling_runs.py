"""Test of the check before any run is started; tests/flows/production has the rest, with workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.orchestration.sampling_runs import SamplingRuns
from sampling.errors import ConfigurationError
from tasks.run.folder import RunFolder


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_missing_deployment_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has no deployment 'no/such'.*prefect deploy --all"):
        SamplingRuns("no/such", RunFolder(tmp_path, "d", "v", {}))
