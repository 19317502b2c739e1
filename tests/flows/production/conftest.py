"""What every test of deployments shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.prefect_services import PrefectServices, prefect_services

GPU, CPU = "gpu", "cpu"


@pytest.fixture(scope="package")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServices]:
    """All deployments on a server that was new, two workers that sample, one that does not.

    In the end nothing of it runs.
    """
    with prefect_services(tmp_path_factory.mktemp("services")) as services:
        for pool in (GPU, CPU):
            services.prefect("work-pool", "create", pool, "--type", "process")
        for name in ("one", "two"):
            services.start_worker(GPU, "--limit", "1", name=name)
        services.start_worker(CPU)
        services.prefect("deploy", "--all", "--no-prompt")
        yield services
    assert services.alive() == []
