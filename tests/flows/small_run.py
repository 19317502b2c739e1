"""A run of six rows in three shards, and what is seen of it from outside."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

import flows.produce
from flows.produce import open_run
from tasks.config import PipelineConfig
from tasks.run.folder import RunFolder
from tests.tiny import LAX

ROOT = Path(flows.produce.__file__).parent.parent
NUM_ROWS, NUM_SAMPLES = 6, 2
MAX_TOKENS = 50  # cuts some completions of the stand-in
LIMIT_S = 240.0  # what an idle machine does in 20 s
Tokens = dict[tuple[str, int], tuple[int, ...]]


def config_of(
    folder: Path, models: tuple[Path, Path], max_tokens: int = MAX_TOKENS, **validation: float
) -> PipelineConfig:
    """Three shards of four completions; two in flight, so that a shard takes longer than a commit."""
    teacher, theta = models
    source = folder / "rows.jsonl"
    sums = {i: 2 * i + 3 for i in range(NUM_ROWS)}
    rows = [
        {"question": f"Tom has {i} shells and finds {i + 3}. How many?", "answer": f"That is {total}.\n#### {total}"}
        for i, total in sums.items()
    ]
    lines = [*map(json.dumps, rows), json.dumps({"question": None, "answer": "#### 1"}), "{no json"]
    source.write_text("\n".join(lines))
    return PipelineConfig.model_validate(
        {
            "name": "shells",
            "source": {"path": str(source)},
            "prompts": {
                "teacher": {"style": "plain", "template": "Q: {{ question }}\nHint: {{ answer }}\nA:"},
                "theta": {"style": "plain", "template": "Q: {{ question }}\nA:"},
            },
            "models": {"teacher": {"model": str(teacher)}, "theta": {"model": str(theta)}},
            "sampling": {"n": NUM_SAMPLES, "max_tokens": max_tokens, "seed": 7},
            "engine": {"max_num_seqs": 2},
            "shards": {"rows": 2, "retries": 1, "retry_delay_s": 0.0},
            "validation": LAX | validation,
            "publish": {"root": str(folder / "out")},
        }
    )


def folder_of(config: PipelineConfig) -> RunFolder:
    return open_run(config).folder


def tokens_of(dataset: Path) -> Tokens:
    """The drawn tokens of each completion, none of which is there twice."""
    table = pq.read_table(dataset / "data", columns=["id", "sample_idx", "token_ids"])
    tokens = {(row["id"], row["sample_idx"]): tuple(row["token_ids"]) for row in table.to_pylist()}
    assert len(tokens) == len(table) == NUM_ROWS * NUM_SAMPLES
    return tokens


def wait_until(ready: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not ready():
        assert process is None or process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def parts_of(folder: RunFolder) -> dict[Path, str]:
    """Every committed part with a hash of its bytes."""
    paths = (folder.work / "shards").glob("*/parts/*.parquet")
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def engine_pids() -> list[int]:
    """The engines that this process has started and that run."""
    pids = []
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            stat, command = Path(f"/proc/{pid}/stat"), Path(f"/proc/{pid}/cmdline")
            try:
                is_engine = re.search(
                    rb"sampling\.processes\.child\0[\w.]*(engine_child|stand_in)", command.read_bytes()
                )
                if is_engine and ") Z " not in stat.read_text():
                    pids.append(int(pid))
            except FileNotFoundError:
                continue
    return pids


@contextmanager
def in_background(work: Callable[[], None]) -> Iterator[None]:
    """Run something beside the block; its error is the test's."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    assert not errors, errors


def start(config: PipelineConfig, prefect_server: str) -> subprocess.Popen[bytes]:
    """A run in a process group of its own."""
    code = f"""
from flows.produce import run_produce
from tasks.config import PipelineConfig, PublishConfig
run_produce(PipelineConfig.model_validate_json({config.model_dump_json()!r}))
"""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": prefect_server},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def parts_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def kill_engines() -> None:
    for pid in engine_pids():
        os.kill(pid, signal.SIGKILL)
