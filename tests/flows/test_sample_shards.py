"""A run that samples another run's shards: what it must share with that one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.sample_shards import _sample_shards
from sampling.errors import OutputError
from tasks.run.folder import RunFolder
from tasks.store.durable import sha256_of
from tests.tasks.runs import make_config
from tests.tasks.store.s3 import S3Server, s3_server

STRANGER = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def begin(config: Any) -> RunFolder:
    """Begin a run on another engine than this machine's: it is refused once its run.json is accepted."""
    folder = RunFolder.of(config, {"engine": {"device": "cuda", "vllm": "0.1.0", "torch": "2.13.0"}})
    folder.work.mkdir(parents=True, exist_ok=True)
    folder.write_run(config, {})
    return folder


def test_another_engine_than_the_runs_is_refused_before_it_loads(tmp_path: Path) -> None:
    folder = begin(make_config(tmp_path))
    with pytest.raises(OutputError, match=r"was begun on \{'device': 'cuda', 'vllm': '0\.1\.0'"):
        _sample_shards(str(folder.work))


def test_another_configuration_than_the_waiting_runs_is_refused(tmp_path: Path) -> None:
    folder = begin(make_config(tmp_path))
    digest = sha256_of(folder.work / "run.json")
    with pytest.raises(OutputError, match="was begun on"):
        _sample_shards(str(folder.work), digest)
    folder.write_run(make_config(tmp_path, name="other"), {})
    with pytest.raises(OutputError, match=rf"run\.json with sha256 [0-9a-f]{{64}}, not '{digest}' \(run_sha256\)"):
        _sample_shards(str(folder.work), digest)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"models": {name: {"model": "a", "url": STRANGER} for name in ("theta", "teacher")}},
        {"models": {name: {"model": "a", "trust_remote_code": True} for name in ("theta", "teacher")}},
        {"publish": {"root": "/etc"}},
    ],
)
def test_what_a_store_made_of_a_run_is_refused(
    change: dict[str, Any], server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the worker's keys would go to the stranger's server; each with and without the digest."""
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tasks.run.folder.process_scratch", lambda: tmp_path)
    folder = begin(make_config(tmp_path, publish={"root": f"{server.root}/out"}))
    work, run = folder.address(folder.work), folder.work / "run.json"
    digest = sha256_of(run)
    with pytest.raises(OutputError, match="was begun on"):
        _sample_shards(work, digest)
    values = json.loads(run.read_text())
    run.write_text(json.dumps({**values, "identity": {}, "config": values["config"] | change}))
    folder.upload(run)
    with pytest.raises(OutputError, match=rf"not '{digest}' \(run_sha256\): another configuration"):
        _sample_shards(work, digest)
    with pytest.raises(OutputError, match="give run_sha256, its digest"):
        _sample_shards(work)
