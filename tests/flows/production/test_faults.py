"""Whatever is killed, hangs or is cancelled, on a real server with two workers: the same rows, each once.

One test: every fault is done to one long run, one after the other; then it may end, and its dataset is read.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from flows.produce import run_produce
from tasks.store.durable import read_json
from tests.flows.prefect_services import PrefectServices
from tests.flows.production.conftest import start_worker
from tests.flows.production.long_run import (
    NUM_SHARDS,
    LongRun,
    Tokens,
    in_a_hurry,
    is_alive,
    kill,
    long_config,
    tokens_of,
)

SECONDS = 30.0  # what the issue calls seconds, on a machine that does ten things at once
pytestmark = pytest.mark.slow


def test_every_fault_of_one_long_run_costs_no_row(
    services: PrefectServices,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_pair: tuple[Path, Path],
    prefect_server: str,
) -> None:
    undisturbed = in_a_hurry(long_config(tmp_path_factory.mktemp("undisturbed"), tiny_pair))
    expected = tokens_of(run_produce(undisturbed).path)
    run = LongRun.of(services, long_config(tmp_path_factory.mktemp("run"), tiny_pair, run_on="deployment"))
    run.flow_run = run.start()
    two_workers_sample_different_shards(run)
    engines_that_are_killed_or_find_no_memory_are_replaced_in_their_run(run)
    second = run.start()  # of the same dataset, asked for while the first one samples
    an_engine_that_hangs_is_replaced(run)
    sampling_goes_on_without_the_server(run)
    a_killed_worker_takes_its_run_and_no_row(run)
    a_second_run_of_the_same_dataset_is_refused(run, second)
    a_killed_parent_leaves_its_runs_to_the_next_one(run)
    a_cancelled_run_stops_within_seconds(run)
    ctrl_c_stops_the_runs_of_a_command(run, tmp_path_factory.mktemp("command"))
    hurried = LongRun(run.services, in_a_hurry(run.config, retries=1), run.folder)  # many rows in flight
    a_shard_that_always_fails_is_named_and_the_others_are_kept(hurried)
    the_rows_are_those_of_an_undisturbed_run(hurried, expected)


def two_workers_sample_different_shards(run: LongRun) -> None:
    run.wait_until_two_sample()
    assert len({beat.shard for beat in run.at_work().values()}) == 2


def engines_that_are_killed_or_find_no_memory_are_replaced_in_their_run(run: LongRun) -> None:
    engines = run.wait_until_two_sample()
    hurt, engine = engines.popitem()
    kill(engine)
    second = run.next_engine(hurt, engine)
    resource.prlimit(second, resource.RLIMIT_AS, (1 << 30, 1 << 30))  # while it loads, which takes more
    run.next_engine(hurt, second)
    assert run.wait_until_two_sample().keys() == {hurt, *engines}
    assert "memory" in run.log_of(hurt)


def an_engine_that_hangs_is_replaced(run: LongRun) -> None:
    engines = run.wait_until_two_sample()
    hurt, engine = engines.popitem()
    os.kill(engine, signal.SIGSTOP)
    run.next_engine(hurt, engine)
    assert not is_alive(engine)
    assert run.wait_until_two_sample().keys() == {hurt, *engines}


def sampling_goes_on_without_the_server(run: LongRun) -> None:
    engines = run.wait_until_two_sample()
    run.services.kill(run.services.server)
    before = run.num_parts()
    run.wait_until(lambda: run.num_parts() >= before + 8)
    run.services.start_server()
    before = run.num_parts()
    run.wait_until(lambda: run.num_parts() >= before + 8)
    assert run.engines() == engines
    assert run.state(run.flow_run)["type"] == "RUNNING"


def a_killed_worker_takes_its_run_and_no_row(run: LongRun) -> None:
    """Its run stays Running in Prefect, whose word nobody here takes for it."""
    engines = run.wait_until_two_sample()
    lost = {beat.pid: flow_run for flow_run, beat in run.at_work().items()}
    run.services.kill(run.services.workers["one"])
    run.wait_until(lambda: not all(map(is_alive, engines)))
    (gone,) = (pid for pid in engines if not is_alive(pid))
    run.wait_until(lambda: not is_alive(engines[gone]))
    assert run.state(lost[gone])["type"] == "RUNNING"
    start_worker(run.services, "one")
    run.wait_until(lambda: run.state(lost[gone])["type"] == "CRASHED")
    run.wait_until_two_sample()  # replaced, though nobody asked


def a_second_run_of_the_same_dataset_is_refused(run: LongRun, second: str) -> None:
    state = run.wait_for_end(second)
    assert state["type"] == "FAILED"
    assert "is held by another run" in state["message"]
    assert run.state(run.flow_run)["type"] == "RUNNING"


def a_killed_parent_leaves_its_runs_to_the_next_one(run: LongRun) -> None:
    engines = run.wait_until_two_sample()
    killed = run.parent()
    kill(killed)
    run.flow_run = run.start()
    run.wait_until(lambda: run.has_begun(run.flow_run))
    assert run.parent() != killed
    assert run.wait_until_two_sample() == engines


def a_cancelled_run_stops_within_seconds(run: LongRun) -> None:
    """What the pages of Prefect do: they set the state."""
    engines = run.wait_until_two_sample()
    begun = time.monotonic()
    run.services.ask("POST", f"flow_runs/{run.flow_run}/set_state", {"state": {"type": "CANCELLING"}})
    run.wait_until(lambda: not any(map(is_alive, [*engines, *engines.values()])))
    assert time.monotonic() - begun < SECONDS
    assert run.wait_for_end(run.flow_run)["type"] == "CANCELLED"
    assert run.num_parts() > 0


def ctrl_c_stops_the_runs_of_a_command(run: LongRun, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(run.config.model_dump(mode="json", exclude_unset=True)))
    before = run.num_parts()
    with subprocess.Popen(
        [Path(sys.executable).parent / "dual-sampling", "produce", path],
        env=run.services.environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        engines = run.wait_until_two_sample()
        run.wait_until(lambda: run.num_parts() > before)
        begun = time.monotonic()
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=120)
        run.wait_until(lambda: not any(map(is_alive, [*engines, *engines.values()])))
    assert time.monotonic() - begun < SECONDS
    assert command.returncode == 1
    assert "interrupted; what is finished is kept" in said


def a_shard_that_always_fails_is_named_and_the_others_are_kept(hurried: LongRun) -> None:
    shards = [hurried.folder.shard(index) for index in range(NUM_SHARDS)]
    bad = next(shard for shard in reversed(shards) if not shard.summary.exists())
    aside = bad.parts.rename(bad.path / "aside")
    bad.parts.touch()  # a file where the engine commits its rows to a folder
    state = hurried.wait_for_end(hurried.start())
    assert state["type"] == "FAILED"
    assert f"shard {bad.path.name}" in state["message"]
    assert [shard for shard in shards if not shard.summary.exists()] == [bad]
    assert not hurried.folder.published.exists()
    bad.parts.unlink()
    aside.rename(bad.parts)


def the_rows_are_those_of_an_undisturbed_run(hurried: LongRun, undisturbed: Tokens) -> None:
    assert hurried.wait_for_end(hurried.start())["type"] == "COMPLETED"
    assert tokens_of(hurried.folder.published) == undisturbed
    manifest = read_json(hurried.folder.published / "manifest.json")
    assert manifest is not None
    assert manifest["num_attempts"] >= NUM_SHARDS
    assert not hurried.folder.work.exists()
