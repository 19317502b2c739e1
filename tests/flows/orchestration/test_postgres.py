"""Test of Prefect's server on PostgreSQL: runs end as on SQLite, and their states are in that database."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.flows.conftest import write_dataset
from tests.flows.prefect_services import PrefectServices, prefect_services

INSTALLED = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))  # Debian keeps these off the PATH
USER = "prefect"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sockets() -> Iterator[Path]:
    """The folder of a new PostgreSQL server's socket; without one installed the test is skipped, but fails under CI."""
    pg_ctl = shutil.which("pg_ctl", path=os.pathsep.join([*INSTALLED, os.environ["PATH"]]))
    if pg_ctl is None:
        if os.environ.get("CI"):
            pytest.fail("no PostgreSQL here: apt-get install postgresql")
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    with running(pg_ctl) as folder:
        yield folder


@contextmanager
def running(pg_ctl: str) -> Iterator[Path]:
    """A PostgreSQL server; it refuses to be root, so root runs it as the user that Debian's package makes."""
    # Not pytest's folder: other users cannot enter it, and its path may exceed a socket's 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    options: dict[str, Any] = {"cwd": folder, "env": {**os.environ, "PGDATA": str(folder / "data")}}
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        options |= {"user": "postgres", "group": "postgres", "extra_groups": []}

    def control(*argv: str) -> None:
        done = subprocess.run([pg_ctl, "-s", *argv], stdin=subprocess.DEVNULL, **options)
        log = folder / "log"
        assert done.returncode == 0, log.read_text() if log.exists() else argv

    try:
        # Trust: no other user may enter the folder of the socket, and it listens nowhere else.
        control("initdb", "-o", f"-U {USER} -A trust -E UTF8 --no-locale --no-sync")
        control("start", "-w", "-t", "120", "-l", str(folder / "log"), "-o", f"-F -k {folder} -c listen_addresses=")
        try:
            yield folder
        finally:
            control("stop", "-w", "-t", "120", "-m", "fast")  # disconnects its clients
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def services(sockets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServices]:
    address = f"postgresql+asyncpg://{USER}@/postgres?host={sockets}"
    folder = tmp_path_factory.mktemp("services")
    with prefect_services(folder, PREFECT_SERVER_DATABASE_CONNECTION_URL=address) as services:
        yield services
    assert services.alive() == []


async def test_a_run_is_in_the_database(services: PrefectServices, sockets: Path, tmp_path: Path) -> None:
    """A worker judges a dataset twice; the second time its limits refuse it."""
    services.prefect("work-pool", "create", "cpu", "--type", "process")
    services.prefect("deploy", "--name", "validate", "--no-prompt")
    services.start_worker("cpu")
    dataset = write_dataset(tmp_path / "set", "v1")
    judge = ["deployment", "run", "validate-dataset/validate", "--watch", "-p", f"dataset={dataset}"]
    services.prefect(*judge)
    refused = services.call("-m", "prefect", *judge, "-p", 'changes=["kl_error_max=1e-12"]')
    assert refused.returncode == 1, refused.stdout

    connection = await asyncpg.connect(host=str(sockets), user=USER, database="postgres")
    try:
        runs = await connection.fetch("select state_type, work_queue_name, parameters from flow_run")
        artifacts = await connection.fetch("select key from artifact")
    finally:
        await connection.close()
    assert Counter(str(run["state_type"]) for run in runs) == {"COMPLETED": 1, "FAILED": 1}
    assert {run["work_queue_name"] for run in runs} == {"datasets"}
    assert all(str(dataset) in run["parameters"] for run in runs)
    assert "set-v1-verdict" in {artifact["key"] for artifact in artifacts}
    assert not list((services.folder / "home").glob("*.db"))  # SQLite was not used
