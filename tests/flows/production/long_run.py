"""A run on two workers that is long enough to be hurt again and again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flows.produce import open_run
from tasks.config import PipelineConfig
from tasks.run.folder import OWN_ENGINE, RunFolder
from tasks.run.heartbeat import HeartbeatRecord, read_heartbeats
from tasks.store.durable import read_json
from tests.flows.prefect_services import PrefectServices
from tests.flows.small_run import config_of

LIMIT_S = 600.0  # what an idle machine does in 20 s
NUM_ROWS, NUM_SAMPLES, MAX_TOKENS = 300, 2, 200  # 1.7 times what the faults need on an idle machine
NUM_SHARDS = NUM_ROWS // 15
PARENT = "produce-dataset/produce-on-many-gpus"
Tokens = dict[tuple[str, int], tuple[int, ...]]


def long_config(folder: Path, models: tuple[Path, Path], **shards: Any) -> PipelineConfig:
    """Shards of 30 completions, one in flight: minutes of two engines; many in flight: less than one of one engine."""
    config = config_of(folder, models)
    rows = [{"question": f"Tom has {i} shells. How many?", "answer": f"#### {i}"} for i in range(NUM_ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    changes = {
        "sampling": {"n": NUM_SAMPLES, "max_tokens": MAX_TOKENS, "seed": 7},
        "engine": {"max_num_seqs": 1},
        "shards": {
            "rows": 15,
            "retries": 10,
            "retry_delay_s": 0.0,
            "stall_timeout_s": 30.0,
            "lost_timeout_s": 20.0,
            **shards,
        },
    }
    values = config.model_dump(mode="json", exclude_unset=True)
    return PipelineConfig.model_validate(values | changes)


def in_a_hurry(config: PipelineConfig, **shards: Any) -> PipelineConfig:
    """The same run: how many rows share a batch changes no token."""
    values = config.model_dump(mode="json", exclude_unset=True)
    changed = {"engine": {"max_num_seqs": 128}, "shards": values["shards"] | shards}
    return PipelineConfig.model_validate(values | changed)


def tokens_of(dataset: Path) -> Tokens:
    """The drawn tokens of each completion, none of which is missing or there twice."""
    table = pq.read_table(dataset / "data", columns=["id", "sample_idx", "token_ids"])
    tokens = {(row["id"], row["sample_idx"]): tuple(row["token_ids"]) for row in table.to_pylist()}
    assert len(tokens) == len(table) == NUM_ROWS * NUM_SAMPLES
    return tokens


@dataclass
class LongRun:
    """The run, as it is seen from outside."""

    services: PrefectServices
    config: PipelineConfig
    folder: RunFolder
    flow_run: str = ""

    @classmethod
    def of(cls, services: PrefectServices, config: PipelineConfig) -> LongRun:
        """Not yet started."""
        return cls(services, config, open_run(config).folder)

    def start(self) -> str:
        """Ask for it; the flow run's id."""
        deployment = self.services.ask("GET", f"deployments/name/{PARENT}")["id"]
        parameters = {"config": self.config.model_dump(mode="json", exclude_unset=True)}
        answer = self.services.ask("POST", f"deployments/{deployment}/create_flow_run", {"parameters": parameters})
        return str(answer["id"])

    def state(self, flow_run: str) -> dict[str, Any]:
        """Prefect's word on a flow run."""
        state: dict[str, Any] = self.services.ask("GET", f"flow_runs/{flow_run}")["state"]
        return state

    def wait_for_end(self, flow_run: str) -> dict[str, Any]:
        """Its last state."""
        ends = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        self.wait_until(lambda: self.state(flow_run)["type"] in ends)
        return self.state(flow_run)

    def at_work(self) -> dict[str, HeartbeatRecord]:
        """Runs of sample-shards that live and sample, by their ids."""
        beats = read_heartbeats(self.folder)
        return {run: beat for run, beat in beats.items() if beat.shard is not None and is_alive(beat.pid)}

    def engines(self) -> dict[int, int]:
        """The engine of each such run: the run's pid → the engine's."""
        return {beat.pid: engine for beat in self.at_work().values() for engine in engines_of(beat.pid)}

    def next_engine(self, run: int, engine: int) -> int:
        """The engine that a run (its pid) starts in the place of one."""
        self.wait_until(lambda: engines_of(run) not in ([], [engine]))
        return engines_of(run)[0]

    def log_of(self, run: int) -> str:
        """What a run's engines have printed."""
        (flow_run,) = (beat.run for beat in read_heartbeats(self.folder).values() if beat.pid == run)
        return self.folder.engine_log(f"{OWN_ENGINE}-{flow_run[:8]}").read_text(errors="replace")

    def wait_until_two_sample(self) -> dict[int, int]:
        """Until both workers' engines finish rows; those engines."""
        before = self.at_work()

        def has_grown(run: str, now: HeartbeatRecord) -> bool:
            then = before.get(run)
            if now.progress is None:
                return False
            if then is None or then.progress is None or then.shard != now.shard:
                return now.progress.sampling_s > 0
            return now.progress.num_done > then.progress.num_done

        def ready() -> bool:
            grown = [run for run, beat in self.at_work().items() if has_grown(run, beat)]
            return len(grown) == len(self.engines()) == 2

        self.wait_until(ready)
        return self.engines()

    def num_parts(self) -> int:
        """Commits on the disk."""
        return len(list((self.folder.work / "shards").glob("*/parts/*.parquet")))

    def has_begun(self, flow_run: str) -> bool:
        """Whether it waits for shards: its log says so."""
        body = {"logs": {"flow_run_id": {"any_": [flow_run]}}}
        return any("begins" in line["message"] for line in self.services.ask("POST", "logs/filter", body))

    def parent(self) -> int:
        """The pid of the run that waits for the others."""
        holder = read_json(self.folder.work / "holder.json")
        assert holder is not None
        return int(holder["pid"])

    def wait_until(self, ready: Callable[[], object]) -> None:
        """Fails with every log after LIMIT_S."""
        deadline = time.monotonic() + LIMIT_S
        while not ready():
            assert time.monotonic() < deadline, self.services.logs()
            time.sleep(0.1)


def engines_of(pid: int) -> list[int]:
    """The engines that a process has started and that live."""
    children: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            children.update(map(int, path.read_text().split()))
    return [child for child in children if is_alive(child) and "engine_child" in command_of(child)]


def command_of(pid: int) -> str:
    """Empty for a process that is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def is_alive(pid: int) -> bool:
    """A zombie is not."""
    with suppress(OSError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def kill(pid: int) -> None:
    """As the kernel's out-of-memory killer does it."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
