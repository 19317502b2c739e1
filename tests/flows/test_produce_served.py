"""The whole way with served models: a key from Prefect, a server killed in the middle, the same rows all the same."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
from prefect.blocks.system import Secret

from flows.produce import ProduceResult, open_run, run_produce
from sampling.served.config import key_variable
from tasks.config import PipelineConfig
from tasks.run.parts import read_parts
from tests.sampling.served.servers import Server, start
from tests.tiny import LAX

NUM_ROWS, MAX_IN_FLIGHT, MAX_TOKENS = 64, 32, 12
KEYS = {"theta": "key-of-theta-5f3a", "teacher": "key-of-the-teacher-9c1d"}
LIMIT_S = 240.0

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def served(servers: tuple[Server, Server], tiny_pair: tuple[Path, Path], tmp_path: Path) -> Iterator[dict[str, Server]]:
    """The servers by their model's name; theta's is this test's own, and demands a key."""
    theta = start(tiny_pair[1], "theta", tmp_path / "theta.log", "--api-key", KEYS["theta"])
    running = {"teacher": servers[0], "theta": theta}
    try:
        theta.wait()
        yield running
    finally:
        running["theta"].kill()


def config_of(folder: Path, served: dict[str, Server]) -> PipelineConfig:
    """One shard of two waves: when rows of the first are finished, those of the second are in flight."""
    source = folder / "rows.jsonl"
    rows = [{"question": f"What is {i} and {i + 7}?", "answer": f"#### {2 * i + 7}"} for i in range(NUM_ROWS)]
    source.write_text("\n".join(map(json.dumps, rows)))
    plain = {"style": "plain", "template": "Q: {{ question }}\nA:"}
    return PipelineConfig.model_validate(
        {
            "name": "served",
            "source": {"path": str(source)},
            "prompts": {"teacher": {**plain, "template": "Q: {{ question }}\nHint: {{ answer }}\nA:"}, "theta": plain},
            "models": {name: {"model": str(server.folder), "url": server.url} for name, server in served.items()},
            # With the likeliest token: the same whatever shared a batch.
            "http": {
                "top_k": 20,
                "max_tail_mass": 1.0,
                "max_in_flight": MAX_IN_FLIGHT,
                "retries": 2,
                "retry_delay_s": 0.1,
                "breaker_failures": 2,
                "breaker_pause_s": 0.5,
            },
            "sampling": {"max_tokens": MAX_TOKENS, "temperature": 0.0},
            "shards": {"rows": NUM_ROWS, "retries": 10, "retry_delay_s": 8.0},
            "validation": {**LAX, "duplicate_rate_max": 1.0, "probe_rows": None},
            "publish": {"root": str(folder / "out")},
        }
    )


def tokens_of(result: ProduceResult) -> dict[str, tuple[int, ...]]:
    table = pq.read_table(result.path / "data", columns=["id", "token_ids"])
    tokens = {row["id"]: tuple(row["token_ids"]) for row in table.to_pylist()}
    assert len(tokens) == len(table) == NUM_ROWS
    return tokens


def test_a_killed_server_that_comes_back_costs_no_row(
    served: dict[str, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, key in KEYS.items():
        monkeypatch.delenv(key_variable(name), raising=False)
        Secret(value=key).save(f"dual-sampling-{name}-api-key", overwrite=True)
    (tmp_path / "calm").mkdir()
    calm = run_produce(config_of(tmp_path / "calm", served))
    wanted = tokens_of(calm)
    manifest = json.loads((calm.path / "manifest.json").read_text())
    assert manifest["num_attempts"] == 1

    (tmp_path / "storm").mkdir()
    config = config_of(tmp_path / "storm", served)
    folder = open_run(config).folder
    port = urlsplit(served["theta"].url).port
    seen: list[int] = []

    def kill_and_restart() -> None:
        deadline = time.monotonic() + LIMIT_S
        while not seen and time.monotonic() < deadline:
            if folder.plan.exists() and (num := len(read_parts(folder.shard(0).parts).keys())):
                seen.append(num)
            time.sleep(0.02)
        old = served["theta"]
        old.kill()
        served["theta"] = start(old.folder, "theta", old.log, "--api-key", KEYS["theta"], port=port)

    thread = threading.Thread(target=kill_and_restart)
    thread.start()
    try:
        result = run_produce(config)
    finally:
        thread.join()
    assert 0 < seen[0] < NUM_ROWS
    assert tokens_of(result) == wanted
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert manifest["num_attempts"] > 1
    said = capfd.readouterr()
    everything = (
        said.out
        + said.err
        + "".join(
            path.read_text(errors="replace")
            for path in (tmp_path / "storm").rglob("*")
            if path.suffix in (".log", ".json")
        )
    )
    assert not [key for key in KEYS.values() if key in everything]
