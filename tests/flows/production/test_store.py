"""A run whose folder is in an object store, on a real S3 server: begun by a command, ended by two workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.produce import open_run, run_produce
from tasks.config import PipelineConfig
from tasks.publish.dataset import open_dataset
from tests.flows.prefect_services import PrefectServices
from tests.flows.production.long_run import LIMIT_S, PARENT
from tests.flows.small_run import NUM_ROWS, NUM_SAMPLES, config_of, tokens_of
from tests.tasks.store.s3 import S3Server, s3_server

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).parent / "dual-sampling"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> PipelineConfig:
    """Six shards in a folder, one completion in flight."""
    config = config_of(tmp_path, tiny_pair)
    changes: dict[str, Any] = {"engine": {"max_num_seqs": 1}, "shards": {"rows": 1, "retry_delay_s": 0.0}}
    return PipelineConfig.model_validate(config.model_dump(mode="json", exclude_unset=True) | changes)


def in_the_store(config: PipelineConfig, server: S3Server, **shards: Any) -> dict[str, Any]:
    """The same run with the bucket in the folder's place, as YAML holds it."""
    values = config.model_dump(mode="json", exclude_unset=True)
    changes = {"publish": {"root": f"{server.root}/out"}, "shards": values["shards"] | shards}
    return values | changes


def test_a_run_goes_from_machine_to_machine(
    services: PrefectServices,
    server: S3Server,
    config: PipelineConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prefect_server: str,
) -> None:
    """Keys come from the environment for the command, from Prefect's block for the workers."""
    undisturbed = tokens_of(run_produce(config).path)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    values = in_the_store(config, server)
    folder = open_run(PipelineConfig.model_validate(values)).folder
    assert folder.mirror is not None

    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(values))
    with subprocess.Popen(
        [COMMAND, "produce", path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    ) as command:
        deadline = time.monotonic() + LIMIT_S
        while not any("/parts/" in name for name in folder.mirror.listing(folder.work)):
            assert command.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(command.pid, signal.SIGKILL)
    kept = {name for name in folder.mirror.listing(folder.work) if "/parts/" in name}
    assert not folder.mirror.exists(folder.published / "manifest.json")

    for name in server.env:
        monkeypatch.delenv(name)
    block = f"from prefect.blocks.system import Secret; Secret(value={server.options!r}).save('dual-sampling-storage')"
    assert services.call("-c", block).returncode == 0
    given = json.dumps(in_the_store(config, server, run_on="deployment"))
    said = services.prefect("deployment", "run", PARENT, "-p", f"config={given}", "--watch")
    assert "finished successfully in 'Completed'" in said

    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    dataset = open_dataset(f"{server.root}/out/shells/latest")
    assert dataset.address == f"{server.root}/out/shells/{folder.version}"
    assert tokens_of(dataset.path) == undisturbed
    assert dataset.damages() == []
    assert dataset.manifest is not None
    # What the command had finished was not sampled again, however much that was.
    assert dataset.manifest["num_attempts"] >= NUM_ROWS
    assert dataset.manifest["engine"]["num_tokens"] < 2 * sum(map(len, undisturbed.values()))
    assert kept
    assert len(undisturbed) == NUM_ROWS * NUM_SAMPLES
    assert folder.mirror.listing(folder.work) == {}

    again = subprocess.run([COMMAND, "produce", path], capture_output=True, text=True)
    assert (again.returncode, again.stdout.splitlines()[-1:]) == (0, [dataset.address])
    judged = services.call(COMMAND, "validate", f"{server.root}/out/shells/latest")  # by the block's keys
    assert judged.returncode == 0, judged.stdout
    for text in (said, services.logs(), again.stderr, judged.stdout):
        assert server.options["secret"] not in text
