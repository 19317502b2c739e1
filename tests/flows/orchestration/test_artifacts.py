"""Tests of the artifacts: metrics, cost, progress; a dataset's text never becomes markup."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

import flows.orchestration.artifacts
from flows.orchestration.artifacts import ProgressArtifacts, show_cost, show_quality
from tests.flows.commands import artifacts_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
HOSTILE = "value '<script>alert(1)</script> [a](javascript:b) | `c`\n# d'"


def test_hostile_text_is_no_markup(tmp_path: Path) -> None:
    check = {
        "suite": "prompts", "name": "has_id", "outcome": "failed", "limit": "True", "value": HOSTILE,
        "meaning": "m", "why": "",
    }  # fmt: skip
    report = {"passed": False, "refusals": [HOSTILE], "warnings": [], "figures": {"num_rows": None}, "checks": [check]}

    @flow
    def show() -> None:
        show_quality("A b/C <v>", report, tmp_path / "report.html")

    state = show(return_state=True)
    artifacts = artifacts_of(state)
    assert set(artifacts) == {"a-b-c-v-verdict", "a-b-c-v-figures", "a-b-c-v-checks", "a-b-c-v-report"}
    verdict = artifacts["a-b-c-v-verdict"]
    assert "\\<script\\>" in verdict
    assert "\n# d" not in verdict
    assert "\\[a\\]\\(javascript" in verdict


def manifest(**changes: Any) -> dict[str, Any]:
    """The manifest of a run of two attempts."""
    engine = {"num_tokens": 1200, "num_fallback": 30, "theta_s": 1.0, "teacher_s": 2.5, "mixing_s": 0.5, "total_s": 4.0}
    return {
        "num_rows": 10,
        "engine": engine,
        "num_attempts": 2,
        "num_damaged_parts": 1,
        "quarantine": {"bad_row": 1, "no|text": 3},
        **changes,
    }


def test_cost_is_a_table_beside_a_page_with_links(tmp_path: Path) -> None:
    dataset = tmp_path / "a set"

    @flow
    def show() -> None:
        show_cost("set v1", manifest(), dataset)

    artifacts = artifacts_of(show(return_state=True))
    assert {row["what"]: row["value"] for row in json.loads(artifacts["set-v1-cost"])} == {
        "rows": 10,
        "rows quarantined": 4,
        "tokens drawn": 1200,
        "tokens drawn from the teacher as fallback": 30,
        "engine, s": 4.0,
        "theta, s": 1.0,
        "teacher, s": 2.5,
        "mixing, s": 0.5,
        "tokens/s": 300.0,
        "rows/s": 2.5,
        "attempts at shards": 2,
        "damaged parts, sampled again": 1,
    }
    quarantine = [{"reason": "no|text", "num": 3}, {"reason": "bad_row", "num": 1}]
    assert json.loads(artifacts["set-v1-quarantine"]) == quarantine
    page = artifacts["set-v1-run"]
    assert "| tokens/s | 300.0 |" in page
    assert r"| no\|text | 3 |" in page
    assert f"({tmp_path.as_uri()}/a%20set/report.html)" in page
    assert artifacts["set-v1-dataset"] == f"[a set]({tmp_path.as_uri()}/a%20set)"


def test_cost_of_a_run_that_timed_nothing(tmp_path: Path) -> None:
    @flow
    def show() -> None:
        show_cost("set v1", manifest(engine={}, quarantine={}), tmp_path)

    artifacts = artifacts_of(show(return_state=True))
    assert {"what": "tokens/s", "value": ""} in json.loads(artifacts["set-v1-cost"])
    assert "set-v1-quarantine" not in artifacts
    assert "Nothing." in artifacts["set-v1-run"]


def in_flow(work: Callable[[], None]) -> Any:
    """Return the state of a flow run that calls `work`; raise what that raises."""
    state = flow(name="work")(work)(return_state=True)
    state.result()
    return state


def wait_until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60.0
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_progress_is_updated_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.orchestration.artifacts, "UPDATE_EVERY_S", 0.01)

    def work() -> None:
        progress = ProgressArtifacts()
        progress.put("deleted", 1.0, "once")
        progress.put("kept", 2.0, "once")
        wait_until(lambda: set(progress._ids) == {"deleted", "kept"})
        deleted = progress._ids["deleted"]
        with get_client(sync_client=True) as client:
            client.delete_artifact(deleted)
        progress.put("deleted", 3.0, "made again")
        wait_until(lambda: progress._ids.get("deleted", deleted) != deleted)
        for i in range(100):
            progress.put("kept", float(i), "again")
        progress.put("kept", 100.0, "the last")
        progress.close()
        assert not progress._thread.is_alive()

    assert artifacts_of(in_flow(work)) == {"deleted": "3", "kept": "100"}


def test_a_server_that_is_gone_costs_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flows.orchestration.artifacts, "UPDATE_EVERY_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/api"

    def work() -> None:
        with temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}):
            progress = ProgressArtifacts()
        progress.put("a", 1.0, "once")
        wait_until(lambda: "Prefect takes no progress" in caplog.text)
        progress.put("b", 2.0, "again")
        progress.close()
        progress._thread.join(60.0)
        assert set(progress._waiting) == {"a", "b"}  # nothing was lost before the end

    assert artifacts_of(in_flow(work)) == {}
    assert caplog.text.count("Prefect takes no progress") == 1


def test_a_server_that_does_not_answer_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.orchestration.artifacts, "UPDATE_EVERY_S", 0.01)
    monkeypatch.setattr(flows.orchestration.artifacts, "CLOSE_S", 0.01)

    def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
            with temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}):
                progress = ProgressArtifacts()
            progress.put("a", 1.0, "once")
            wait_until(lambda: not progress._waiting)
            progress.put("a", 2.0, "latest")
            progress.close()
            assert progress._thread.is_alive()  # still waits for its answer
        progress._thread.join(60.0)
        assert not progress._thread.is_alive()

    assert artifacts_of(in_flow(work)) == {}
