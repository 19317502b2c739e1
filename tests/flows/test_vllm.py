"""The whole way with real models: killed at any moment, the run draws the tokens of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.produce import run_produce
from tasks.run.parts import read_parts
from tests.flows.small_run import config_of, folder_of, parts_of, start, tokens_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
MAX_TOKENS = 200  # a shard takes longer than a commit


def test_kill_9_at_any_moment(
    tiny_pair: tuple[Path, Path], prefect_server: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed while planning, twice while sampling, while staging: nothing is lost, nothing sampled twice."""
    rng = random.Random(20)
    undisturbed = run_produce(config_of(tmp_path_factory.mktemp("undisturbed"), tiny_pair, MAX_TOKENS))
    assert 0 < undisturbed.metrics["kl_error_max"] < 1e-6
    config = config_of(tmp_path, tiny_pair, MAX_TOKENS)
    folder = folder_of(config)
    kept: dict[Path, str] = {}

    def amid_a_shard() -> bool:
        """Some of a shard's four completions are committed, and more than before."""
        parts = parts_of(folder)
        num_rows = Counter[Path]()
        for path in parts:
            num_rows[path.parent] += pq.read_metadata(path).num_rows
        return len(parts) > len(kept) and any(num < 4 for num in num_rows.values())

    # The next commit is COMMIT_EVERY_S = 0.5 s away: a kill 0.2 s later still finds the shard half done.
    moments: list[tuple[Callable[[], object], float]] = [
        (lambda: folder.was_begun(), 0.05),  # planning, or just behind it
        (amid_a_shard, 0.2),
        (amid_a_shard, 0.2),
        (lambda: folder.staged.exists(), 1.0),
    ]
    for ready, spread_s in moments:
        process = start(config, prefect_server)
        try:
            wait_until(ready, process)
            time.sleep(rng.random() * spread_s)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        parts = parts_of(folder)
        assert parts.items() >= kept.items()  # what was committed stays as it is
        kept = parts
    assert not folder.published.exists()
    assert not folder.latest.exists()
    # Each completion was committed by one attempt alone, over all the kills.
    shards = [read_parts(folder.shard(i).parts) for i in range(3)]
    assert [len(shard.table) for shard in shards] == [4, 4, 4]
    assert sum(shard.num_duplicates + shard.num_set_aside for shard in shards) == 0
    assert sum(shard.num_attempts for shard in shards) >= 3  # one a shard, one more a kill while sampling

    result = run_produce(config)
    assert tokens_of(result.path) == tokens_of(undisturbed.path)
    assert result.quarantine == undisturbed.quarantine
    manifest = json.loads((result.path / "manifest.json").read_text())
    # Totals are of the committed work: at least what is published, with what was in flight when a commit was made.
    assert manifest["engine"]["num_tokens"] >= result.metrics["num_tokens"]
    assert not folder.work.exists()
