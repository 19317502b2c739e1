"""Runs of deployments by somebody who may run them and no more: what their parameters may not do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import PrefectHTTPStatusError

from sampling.permissions import CODE, OUTPUT
from tests.flows.prefect_services import ROOT, PrefectServices, prefect_services, wait_until
from tests.flows.small_run import config_of

pytestmark = pytest.mark.slow
POOL = ROOT / "flows" / "configs" / "work-pool.json"
NAME = "<img src=x onerror=alert(1)> [a](javascript:b) ![c](http://evil/d.png)"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("allowed")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, out: Path) -> Iterator[PrefectServices]:
    """A server with one worker, whose environment limits where runs write; its pools are the repository's."""
    with prefect_services(tmp_path_factory.mktemp("services")) as services:
        for pool in ("gpu", "cpu"):
            services.prefect("work-pool", "create", pool, "--type", "process", "--base-job-template", str(POOL))
            services.environment[OUTPUT] = str(out)
            services.start_worker(pool, name=pool)
        services.prefect("deploy", "--all", "--no-prompt")
        yield services


def start(services: PrefectServices, deployment: str, parameters: dict[str, Any], variables: Any = None) -> Any:
    """What the server answers who asks for a run."""
    path = f"deployments/{services.ask('GET', f'deployments/name/{deployment}')['id']}/create_flow_run"
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "job_variables": variables or {}}
    return services.ask("POST", path, body)


def run(services: PrefectServices, deployment: str, parameters: dict[str, Any], variables: Any = None) -> Any:
    """The flow run, once it has ended."""
    started = start(services, deployment, parameters, variables)
    assert "id" in started, started
    found: dict[str, Any] = {}

    def has_ended() -> bool:
        found.update(services.ask("GET", f"flow_runs/{started['id']}"))
        return found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    wait_until(has_ended, services)
    return found


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_pair: tuple[Path, Path], out: Path) -> dict[str, Any]:
    config = config_of(tmp_path_factory.mktemp("run"), tiny_pair)
    return config.model_dump(mode="json", exclude_unset=True) | {"publish": {"root": str(out / "published")}}


@pytest.mark.parametrize("variables", [{}, {"env": {CODE: "1"}}, {f"env.{CODE}": "1"}, {"command": "touch MARKER"}])
def test_no_code_runs_that_a_configuration_names(
    services: PrefectServices, config: dict[str, Any], variables: dict[str, Any], tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "theta").mkdir()
    theta = shutil.copytree(config["models"]["theta"]["model"], tmp_path / "theta", dirs_exist_ok=True)
    (theta / "own.py").write_text(f"open({str(marker)!r}, 'w')")
    values = json.loads((theta / "config.json").read_text()) | {"auto_map": {"AutoConfig": "own.Config"}}
    (theta / "config.json").write_text(json.dumps(values))
    models = config["models"] | {"theta": {"model": str(theta), "trust_remote_code": True}}
    variables = json.loads(json.dumps(variables).replace("MARKER", str(marker)))
    ended = run(services, "produce-dataset/produce", {"config": config | {"models": models}}, variables)
    assert ended["state"]["type"] == "FAILED", services.logs()
    assert f"{CODE} is 0 in the environment of this process" in ended["state"]["message"]
    assert not marker.exists()


def test_nothing_is_written_elsewhere(services: PrefectServices, config: dict[str, Any], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for deployment, parameters in (
        ("produce-dataset/produce", {"config": config | {"publish": {"root": str(elsewhere)}}}),
        ("sample-shards/sample-shards", {"work": f"{elsewhere}/a/.work/b"}),
    ):
        ended = run(services, deployment, parameters, {"env": {OUTPUT: "/"}})
        assert ended["state"]["type"] == "FAILED", services.logs()
        assert "which DUAL_SAMPLING_OUTPUT_ROOT in the environment of this process allows alone" in str(ended["state"])
    assert not elsewhere.exists()


def test_a_dataset_is_published_and_shown_as_text(
    services: PrefectServices, config: dict[str, Any], out: Path, tmp_path: Path
) -> None:
    """Where it is allowed; then a copy with a hostile name is judged, and what pages show of it is no markup."""
    ended = run(services, "produce-dataset/produce", {"config": config})
    assert ended["state"]["type"] == "COMPLETED", services.logs()
    dataset = (out / "published" / config["name"] / "latest").resolve(strict=True)
    hostile = shutil.copytree(dataset, tmp_path / NAME.replace("/", "_") / "v1")
    ended = run(services, "validate-dataset/validate", {"dataset": str(hostile)})
    artifacts = services.ask("POST", "artifacts/filter", {"flow_runs": {"id": {"any_": [ended["id"]]}}})
    assert len(artifacts) == 3, services.logs()
    for artifact in artifacts:
        for text in (artifact["description"], artifact["data"] if artifact["type"] == "markdown" else ""):
            assert not any(mark in text.replace("\\<", "").replace("\\[", "") for mark in ("<img", "[a]", "[c]"))
    report = tmp_path / "report.html"
    ended = run(services, "report-dataset/report", {"dataset": str(dataset), "output": str(report)})
    assert "output" in ended["state"]["message"]
    assert not report.exists()


@pytest.mark.parametrize("key", ["url", "model"])
@pytest.mark.parametrize("address", ["http://me:s3cret-9Kq@127.0.0.1:9", "http://me:s3cret-9Kq%40127.0.0.1:9"])
def test_no_page_shows_a_secret(services: PrefectServices, config: dict[str, Any], key: str, address: str) -> None:
    """Prefect would keep and show it as the parameter of a run: there is none."""
    models = {name: {**config["models"][name], key: address} for name in ("theta", "teacher")}
    before = services.ask("POST", "flow_runs/count", {})
    with pytest.raises(PrefectHTTPStatusError, match="409 Conflict"):
        start(services, "produce-dataset/produce", {"config": config | {"models": models}})
    assert services.ask("POST", "flow_runs/count", {}) == before
    assert "s3cret" not in services.logs()
