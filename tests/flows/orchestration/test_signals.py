"""Test of SIGTERM to a run that a command started: its state and hooks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client

import flows.orchestration.signals

LIMIT_S = 120.0  # an idle machine takes 5 s
CODE = """
import time
from prefect import flow
from prefect.runtime import flow_run
from flows.orchestration.signals import exit_on_sigterm

@flow(on_crashed=[lambda flow, run, state: print(state.name, flush=True)])
def waits():
    print(flow_run.id, flush=True)
    time.sleep(600)

exit_on_sigterm()
waits()
"""


@pytest.mark.slow
def test_a_terminated_run_ends_with_its_hooks(prefect_server: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        cwd=Path(flows.orchestration.signals.__file__).parents[2],
        env={**os.environ, "PREFECT_API_URL": prefect_server},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        run = UUID(process.stdout.readline().strip())
        process.terminate()
        stdout, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert stdout.split() == ["Crashed"]
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
    assert state is not None
    assert state.is_crashed()
