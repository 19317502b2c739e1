"""The deployments of prefect.yaml on a real server: two workers run what the command line runs."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.publish.dataset import open_dataset
from tests.flows.prefect_services import ROOT, PrefectServices
from tests.flows.production.conftest import CPU, GPU
from tests.flows.small_run import NUM_SAMPLES, config_of, tokens_of

pytestmark = pytest.mark.slow

# Flow and deployment → pool and queue.
DEPLOYED = {
    "produce-dataset/produce": (GPU, "runs"),
    "produce-dataset/produce-on-many-gpus": (CPU, "datasets"),
    "sample-shards/sample-shards": (GPU, "shards"),
    "validate-dataset/validate": (CPU, "datasets"),
    "report-dataset/report": (CPU, "datasets"),
    "compare-datasets/compare": (CPU, "datasets"),
    "publish-dataset/publish": (CPU, "datasets"),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_pair: tuple[Path, Path]) -> dict[str, Any]:
    """What a YAML file would hold."""
    config = config_of(tmp_path_factory.mktemp("run"), tiny_pair)
    values: dict[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    return values | {"sampling": {"n": NUM_SAMPLES, "max_tokens": 40, "seed": 7}}


@pytest.fixture(scope="module")
def produced(services: PrefectServices, config: dict[str, Any]) -> Path:
    """The dataset that a run of the deployment has published; its watcher saw it complete."""
    config = {**config, "publish": {"root": f"{config['publish']['root']}-by-a-worker"}}
    shown = services.prefect(
        "deployment", "run", "produce-dataset/produce", "-p", f"config={json.dumps(config)}", "--watch"
    )
    assert "finished successfully in 'Completed'" in shown
    return (Path(config["publish"]["root"]) / config["name"] / "latest").resolve(strict=True)


def deployment_of(services: PrefectServices, name: str) -> dict[str, Any]:
    deployment: dict[str, Any] = services.ask("GET", f"deployments/name/{name}")
    return deployment


def run_in_an_hour(services: PrefectServices, name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """A run of a deployment that no worker takes for its own yet."""
    time = datetime.now(UTC) + timedelta(hours=1)
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": time.isoformat()}}
    run: dict[str, Any] = services.ask(
        "POST",
        f"deployments/{deployment_of(services, name)['id']}/create_flow_run",
        {"parameters": parameters, "state": state},
    )
    return run


def test_all_of_them_are_deployed(services: PrefectServices) -> None:
    listed = services.ask("POST", "deployments/filter", {})
    assert len(listed) == len(DEPLOYED) == len(yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"])
    for name, place in DEPLOYED.items():
        deployment = deployment_of(services, name)
        assert (deployment["work_pool_name"], deployment["work_queue_name"]) == place
        assert "dual-sampling" in deployment["tags"]
        assert deployment["description"]
        assert deployment["job_variables"]["env"]["DO_NOT_TRACK"] == "1"
        assert deployment["enforce_parameter_schema"]
        assert deployment["pull_steps"] == [
            {"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}
        ]


def test_the_nightly_schedule_is_there_and_off(services: PrefectServices) -> None:
    deployment = deployment_of(services, "produce-dataset/produce")
    (schedule,) = deployment["schedules"]
    assert (schedule["slug"], schedule["active"]) == ("nightly", False)
    assert schedule["schedule"]["cron"] == "0 2 * * *"
    # Its parameters would be taken.
    run = run_in_an_hour(services, "produce-dataset/produce", schedule["parameters"])
    assert run["parameters"] == schedule["parameters"]


def test_the_parameters_are_forms(services: PrefectServices) -> None:
    """What the pages of Prefect draw a form from: sections, choices, bounds, a description of each key."""
    schema = deployment_of(services, "produce-dataset/produce")["parameter_openapi_schema"]
    assert schema["required"] == ["config"]
    assert schema["properties"]["config"]["$ref"] == "#/definitions/PipelineConfig"
    definitions = schema["definitions"]
    assert definitions["PipelineConfig"]["properties"]["mixture"]["$ref"] == "#/definitions/MixtureConfig"
    mixture = definitions["MixtureConfig"]["properties"]
    assert mixture["alpha_method"]["enum"] == ["fixed", "kl_symmetry", "ess_balance", "entropy"]
    assert mixture["alpha_method"]["description"] == "What α solves at every token."
    assert mixture["preset"]["enum"] == ["conservative", "balanced", "exploratory"]
    assert (mixture["alpha"]["minimum"], mixture["alpha"]["maximum"]) == (0.0, 1.0)
    for deployed in DEPLOYED:
        for key, option in deployment_of(services, deployed)["parameter_openapi_schema"]["properties"].items():
            assert option.get("description"), f"{deployed}: {key}"
    for name in ("MixtureConfig", "SamplingConfig", "EngineConfig", "ShardsConfig", "SourceConfig", "PublishConfig"):
        for key, option in definitions[name]["properties"].items():
            assert option.get("description"), f"{name}.{key}"


@pytest.mark.parametrize("path", sorted((ROOT / "flows" / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_yaml_file_is_taken_as_an_object(services: PrefectServices, path: Path) -> None:
    run = run_in_an_hour(services, "produce-dataset/produce", {"config": yaml.safe_load(path.read_text())})
    assert run["state"]["type"] == "SCHEDULED"


def test_a_bad_configuration_is_refused_by_its_key(services: PrefectServices, config: dict[str, Any]) -> None:
    bad = json.dumps(config | {"mixture": {"alpha_method": "kl", "alfa": 0.5}})
    done = services.call("-m", "prefect", "deployment", "run", "produce-dataset/produce", "-p", f"config={bad}")
    assert done.returncode == 1
    place, reason = done.stdout.split("Failure reason: ")
    assert "Error creating flow run: Validation failed for field 'config.mixture" in place
    assert "'alfa' was unexpected" in reason or "'kl' is not one of ['fixed', 'kl_symmetry'" in reason


def test_a_worker_publishes_what_the_command_publishes(
    services: PrefectServices, config: dict[str, Any], produced: Path, tmp_path: Path
) -> None:
    """The same parameters everywhere: the command and the flow's own file read them from YAML."""
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(config))
    command = services.call(Path(sys.executable).parent / "dual-sampling", "produce", path)
    assert command.returncode == 0, command.stdout
    dataset = Path(command.stdout.splitlines()[-1])
    assert tokens_of(produced) == tokens_of(dataset)
    assert produced.name == dataset.name  # the run's identity

    file = services.call(ROOT / "flows" / "produce.py", path)  # finds the dataset published
    assert (file.returncode, file.stdout.splitlines()[-1:]) == (0, [str(dataset)])


def test_a_worker_judges_a_dataset(services: PrefectServices, produced: Path) -> None:
    shown = services.prefect("deployment", "run", "validate-dataset/validate", "--watch", "-p", f"dataset={produced}")
    assert "finished successfully in 'Completed'" in shown
    assert open_dataset(str(produced)).path == produced  # and stays where it is
