"""What every test of deployments shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.prefect_services import PrefectServices, prefect_services

GPU, CPU = "gpu", "cpu"


WORKERS = {"one": GPU, "two": GPU, "three": CPU}


@pytest.fixture(scope="package")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServices]:
    """All deployments on a server that was new, two workers that sample, one that does not.

    In the end nothing of it runs.
    """
    # By the first second of a server's absence a worker is deaf to cancellations, as by 30 s with Prefect's own 10.
    with prefect_services(tmp_path_factory.mktemp("services"), PREFECT_RUNNER_POLL_FREQUENCY="1") as services:
        start_everything(services)
        yield services
    assert services.alive() == []


def start_everything(services: PrefectServices) -> None:
    """Pools, workers, deployments."""
    for pool in (GPU, CPU):
        services.prefect("work-pool", "create", pool, "--type", "process")
    for name in WORKERS:
        start_worker(services, name)
    services.prefect("deploy", "--all", "--no-prompt")


def start_worker(services: PrefectServices, name: str) -> None:
    """One of WORKERS; a worker that samples does so for one run at a time."""
    pool = WORKERS[name]
    services.start_worker(pool, *(["--limit", "1"] if pool == GPU else []), name=name)
