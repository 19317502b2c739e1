"""The whole way: the same rows whatever happens on it, each of them once.

The engine's process is real, its sampler a stand-in (tests/stand_in.py); tests/flows/test_vllm.py has real models.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.produce import ProduceResult, run_produce
from sampling.errors import EngineDiedError, OutputError, RefusedError
from sampling.record import RECORD_SCHEMA
from tasks.config import PipelineConfig, PublishConfig, ShardsConfig
from tasks.run.lock import locked
from tasks.run.parts import read_parts
from tests.flows.small_run import (
    NUM_ROWS,
    NUM_SAMPLES,
    config_of,
    engine_pids,
    folder_of,
    in_background,
    kill_engines,
    parts_in,
    tokens_of,
    wait_until,
)
from tests.full_disk import FULL, fill
from tests.stand_in import ENGINE, ROW_S
from tests.tiny import LAX
from validations.limits import Limits

pytestmark = [pytest.mark.usefixtures("prefect_server", "stand_in")]
SMALL_BYTES = 4096  # less than a part, more than what the engine's log says


@pytest.fixture(scope="module")
def stand_in() -> Iterator[None]:
    """Engines without models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.worker.engine_process.ENGINE", ENGINE)
        yield


@pytest.fixture(scope="module")
def refused(
    tmp_path_factory: pytest.TempPathFactory, tiny_pair: tuple[Path, Path], prefect_server: str, stand_in: None
) -> tuple[PipelineConfig, RefusedError]:
    """A run that the gate refused: not every completion ends by EOS."""
    config = config_of(tmp_path_factory.mktemp("reference"), tiny_pair, eos_rate_min=1.0)
    with pytest.raises(RefusedError, match=r"eos_rate.*limit ≥ 1") as caught:
        run_produce(config)
    return config, caught.value


@pytest.fixture(scope="module")
def reference(
    refused: tuple[PipelineConfig, RefusedError], tiny_pair: tuple[Path, Path]
) -> tuple[PipelineConfig, ProduceResult]:
    """The same run with other limits; undisturbed, and published without sampling again."""
    config = config_of(Path(refused[0].publish.root).parent, tiny_pair)
    return config, run_produce(config)


def test_a_refused_dataset_lies_aside_with_its_report(refused: tuple[PipelineConfig, RefusedError]) -> None:
    config, error = refused
    folder = folder_of(config)
    assert str(folder.refused) in str(error)
    assert len(tokens_of(folder.refused)) == NUM_ROWS * NUM_SAMPLES
    report = json.loads((folder.refused / "report.json").read_text())
    assert report["passed"] is False
    assert "eos_rate" in report["refusals"][0]
    assert not folder.published.exists()


def test_a_hopeless_run_is_stopped_early(
    tmp_path: Path, tiny_pair: tuple[Path, Path], prefect_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two tokens are too few for an EOS of these models and this seed: after 4 of 12 completions that is clear."""
    config = config_of(tmp_path, tiny_pair, eos_rate_min=0.5, probe_rows=4)
    short = config.sampling.model_copy(update={"max_tokens": 2})
    config = config.model_copy(update={"sampling": short, "shards": ShardsConfig(rows=2)})
    with pytest.raises(RefusedError, match=r"eos_rate\): limit > 0, value 0: no completion .* leave no hope"):
        run_produce(config)
    folder = folder_of(config)
    assert not folder.refused.exists()
    assert not folder.shard(2).summary.exists()
    kept = read_parts(folder.shard(0).parts).table
    assert len(kept) == 4
    assert engine_pids() == []
    # The same command looks again at what is kept, and loads nothing; without the look it goes on from there.
    with pytest.raises(RefusedError, match="leave no hope"):
        run_produce(config)
    lax = config.model_copy(update={"validation": Limits.model_validate(LAX | {"probe_rows": None})})
    assert run_produce(lax).metrics["num_rows"] == NUM_ROWS * NUM_SAMPLES
    (warned,) = (record.getMessage() for record in caplog.records if record.name == "flows.produce")
    assert warned.startswith("published with a warning: ")
    assert "(length_rate): limit ≤ 0.3, value 1: completions are cut at max_tokens" in warned


def test_prefect_shows_the_verdict(
    reference: tuple[PipelineConfig, ProduceResult], refused: tuple[PipelineConfig, RefusedError]
) -> None:
    """Of the refused run, then of the published one: the newest artifact of a key stands on top."""
    folder = folder_of(reference[0])
    key = f"shells-{folder.version}-verdict"
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    assert [str(artifact.data).splitlines()[0] for artifact in sorted(found, key=lambda a: str(a.created))] == [
        f"# shells {folder.version}: refused",
        f"# shells {folder.version}: passed",
    ]
    page = (folder.published / "report.html").read_text()
    assert f"shells {folder.version}" in page
    assert "Tom has 0 shells" in page
    assert sorted(path.name for path in (folder.published / "data_docs").iterdir()) == [
        *("completions.html", "index.html", "prompts.html", "tokens.html"),
    ]


def test_the_published_dataset_is_what_was_sampled(
    reference: tuple[PipelineConfig, ProduceResult], refused: tuple[PipelineConfig, RefusedError]
) -> None:
    config, result = reference
    folder = folder_of(config)
    assert (result.path, result.published, result.refusals) == (folder.published, True, [])
    assert tokens_of(result.path) == tokens_of(folder.refused)  # the same work, other limits
    assert result.quarantine == {"not_json": 1, "null_field": 1}
    assert len((result.path / "quarantine.jsonl").read_text().splitlines()) == 2
    assert sorted(path.name for path in folder.published.parent.iterdir()) == sorted([folder.version, "latest"])
    assert folder.latest.resolve() == result.path

    manifest = json.loads((result.path / "manifest.json").read_text())
    num_completions = NUM_ROWS * NUM_SAMPLES
    assert manifest["num_rows"] == manifest["engine"]["num_requests"] == num_completions
    assert manifest["engine"]["num_tokens"] == result.metrics["num_tokens"]
    assert 0 < result.metrics["kl_error_max"] < 1e-6
    assert manifest["num_attempts"] == 3  # one a shard, all of the refused run
    header = yaml.safe_load((result.path / "README.md").read_text().split("---\n")[1])
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]


def test_a_trainer_can_read_it(reference: tuple[PipelineConfig, ProduceResult], tmp_path: Path) -> None:
    rows = load_dataset(str(reference[1].path), cache_dir=str(tmp_path))["train"]
    assert len(rows) == NUM_ROWS * NUM_SAMPLES
    assert {*RECORD_SCHEMA.names, "question", "answer", "theta_prompt", "teacher_prompt", "messages"} <= {
        *rows.column_names
    }
    for row in rows:
        assert row["theta_prompt"] == f"Q: {row['question']}\nA:"
        assert row["teacher_prompt"] == f"Q: {row['question']}\nHint: {row['answer']}\nA:"
        assert row["messages"] == [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["completion"]},
        ]
        assert len(row["token_ids"]) == len(row["alpha"]) == len(row["mode"]) == row["num_tokens"]
        assert row["mode"][0] == "forced"
        assert row["alpha"][0] == 1.0


def test_a_published_dataset_is_not_made_again(reference: tuple[PipelineConfig, ProduceResult]) -> None:
    config, result = reference
    folder = folder_of(config)
    before = (result.path / "manifest.json").stat().st_mtime_ns
    assert run_produce(config) == result
    # A crash between the publication and the link, which moves last.
    with locked(folder):
        folder.write_run(config, {})
    folder.latest.unlink()
    assert run_produce(config) == result
    assert folder.latest.resolve() == result.path
    assert not folder.work.parent.exists()
    assert (result.path / "manifest.json").stat().st_mtime_ns == before


def test_a_published_dataset_is_held_against_the_limits_given_now(
    reference: tuple[PipelineConfig, ProduceResult], refused: tuple[PipelineConfig, RefusedError]
) -> None:
    """An exit code of 0 would let a script train on what its own limits refuse."""
    with pytest.raises(RefusedError, match=r"eos_rate.*was published by other limits, and stays as it is"):
        run_produce(refused[0])
    assert run_produce(reference[0]) == reference[1]


def test_a_second_run_is_refused(reference: tuple[PipelineConfig, ProduceResult], tmp_path: Path) -> None:
    config = reference[0].model_copy(update={"publish": PublishConfig(root=str(tmp_path))})
    with locked(folder_of(config)), pytest.raises(OutputError, match=f"held by another run.*pid {os.getpid()}"):
        run_produce(config)


def test_a_disk_that_is_full_then_engines_that_die(
    reference: tuple[PipelineConfig, ProduceResult],
    tiny_pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ROW_S, "0.6")  # a shard of four takes longer than a commit
    config = config_of(tmp_path, tiny_pair)
    folder = folder_of(config)
    parts = folder.shard(1).parts

    def fill_the_disk() -> None:
        wait_until(lambda: folder.shard(0).summary.exists())
        for pid in engine_pids():
            fill(SMALL_BYTES, pid)

    # The disk is full: one line, and a run that can be resumed.
    with (
        in_background(fill_the_disk),
        pytest.raises(OutputError, match=f"{FULL}; .*free space") as caught,
    ):
        run_produce(config)
    assert "\n" not in str(caught.value)
    assert engine_pids() == []
    assert folder.shard(0).summary.exists()
    first_shard = folder.shard(0).summary.stat().st_mtime_ns

    # Every engine dies: after its retries the run fails and names the shard; what is finished is kept.
    ended = threading.Event()

    def kill_every_engine() -> None:
        wait_until(lambda: parts_in(parts))
        while not ended.is_set():
            kill_engines()
            time.sleep(0.02)

    with in_background(kill_every_engine):
        try:
            with pytest.raises(EngineDiedError, match=r"shard 00001: the engine's process ended by SIGKILL"):
                run_produce(config)
        finally:
            ended.set()
    assert folder.shard(0).summary.stat().st_mtime_ns == first_shard
    assert not folder.shard(1).summary.exists()

    # One engine dies, and a part is damaged: both are made good.
    damaged = parts_in(parts)[0]
    damaged.write_bytes(damaged.read_bytes()[:-50])

    def kill_one_engine() -> None:
        wait_until(engine_pids)
        kill_engines()

    with in_background(kill_one_engine):
        result = run_produce(config)
    assert tokens_of(result.path) == tokens_of(reference[1].path)
    assert json.loads((result.path / "manifest.json").read_text())["num_damaged_parts"] == 1
    assert engine_pids() == []
