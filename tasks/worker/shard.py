"""One shard: its rows sampled, then joined with what the source says of them."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from sampling.errors import EngineError, UnsupportedVllmError
from sampling.processes.children import as_message, from_message
from sampling.record import RECORD_SCHEMA
from tasks.config import ShardsConfig
from tasks.run.columns import PREFIX, published_names, write_table
from tasks.run.folder import RunFolder
from tasks.run.pace import PER_SHARD, Pace, coarse
from tasks.run.parts import Failure, Parts, Totals, read_parts
from tasks.run.progress import Progress
from tasks.run.shard_folder import ShardFolder
from tasks.store.durable import output_errors, read_json, sha256_of, write_json
from tasks.worker.engine_process import EngineProcess

logger = logging.getLogger(__name__)

MAX_DELAY_S = 60.0
MAX_DELAYS = 50  # Prefect's own limit; the last one is repeated
LEADING = ("id", "sample_idx")


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What became of a shard's rows."""

    num_rows: int  # completions in the table
    sha256: str  # of the table
    totals: Totals  # of the engine, over all attempts
    num_attempts: int
    num_set_aside: int  # damaged parts
    num_duplicates: int
    failed: dict[str, int]  # completions that could not be sampled, by reason
    pace: Pace = field(default_factory=list)  # of the engine


def read_summary(shard: ShardFolder) -> ShardSummary | None:
    """The summary of a complete shard, or None when it is not complete, or its table is damaged."""
    values = read_json(shard.summary)
    if values is None:
        return None
    if not shard.table.is_file() or sha256_of(shard.table) != values["sha256"]:
        logger.warning("shard %s: its table is damaged, made again from the parts", shard.path.name)
        return None
    del values["failures"]
    return ShardSummary(**values)


def read_failures(shard: ShardFolder) -> list[Failure]:
    """The completions of a complete shard that could not be sampled."""
    values = read_json(shard.summary)
    assert values is not None, "read only from complete shards"
    return [Failure(**failure) for failure in values["failures"]]


def give_up(shard: ShardFolder, error: EngineError) -> None:
    """Say why a shard is not sampled any more, so that other shards go on."""
    message = as_message(error)
    write_json(shard.failure, {**message, "text": f"{message['text']} (on {socket.gethostname()})"})
    shard.upload(shard.failure)


def read_failure(shard: ShardFolder) -> EngineError | None:
    """Why a shard was given up; None for one that was not."""
    values = read_json(shard.failure)
    if values is None:
        return None
    error = from_message(values)
    assert isinstance(error, EngineError)
    return error


def retry_options(shards: ShardsConfig) -> dict[str, Any]:
    """How often, after which pauses, a failed shard gets a fresh engine."""
    # 2.0**retries itself would overflow past 1023, and only the first few pauses are below the limit.
    delays = [min(MAX_DELAY_S, shards.retry_delay_s * 2**i) for i in range(min(shards.retries, MAX_DELAYS))]
    return {"retries": shards.retries, "retry_delay_seconds": delays or None}


def _may_help(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """A fresh engine cures a broken one: no configuration, no bug, no vLLM that lacks what lockstep needs."""
    return isinstance(state.data, EngineError) and not isinstance(state.data, UnsupportedVllmError)


@task(
    name="sample-shard",
    task_run_name="sample-shard-{index:05d}",
    cache_policy=NO_CACHE,
    retry_condition_fn=_may_help,
)
def sample_shard(
    folder: RunFolder,
    index: int,
    num_samples: int,
    engine: EngineProcess,
    on_progress: Callable[[int, Progress], None],
    following: int | None = None,
) -> ShardSummary:
    """Sample what is not finished yet of a shard, and complete it, while the engine begins the `following` one.

    `on_progress` is given the shard with the figures of its completions so far. Raises what the engine raises.
    """
    shard = folder.shard(index)
    if (summary := read_summary(shard)) is not None:
        num_failed = sum(summary.failed.values())
        on_progress(index, Progress(summary.num_rows + num_failed, num_failed))
        return summary
    with output_errors(folder.work):
        parts = Parts(RECORD_SCHEMA.empty_table()) if engine.is_at(shard) else read_parts(shard.parts)
        ids = pq.read_table(shard.rows, columns=["id"])["id"].to_pylist()
        done, failed = parts.done(), len(parts.failures)
        on_progress(index, Progress(len(done), failed))
        if any((row, k) not in done for row in ids for k in range(num_samples)):
            try:
                engine.sample(
                    shard,
                    done,
                    lambda now: on_progress(
                        index, replace(now, num_done=len(done) + now.num_done, num_failed=failed + now.num_failed)
                    ),
                )
            except EngineError as error:
                logger.warning("shard %05d: %s", index, error)  # Prefect's pages show what is raised, the terminal this
                raise type(error)(f"shard {index:05d}: {error}") from error
            if following is not None and _is_untouched(folder.shard(following)):
                engine.begin(folder.shard(following))
            parts = read_parts(shard.parts)
        return complete(shard, num_samples, parts)


def _is_untouched(shard: ShardFolder) -> bool:
    return not shard.is_ended() and shard.parts.is_dir() and not any(shard.parts.iterdir())


def complete(shard: ShardFolder, num_samples: int, parts: Parts) -> ShardSummary:
    """Write the shard's table, in the order of its rows, then its summary.

    Raises EngineError when a row is neither finished nor failed.
    """
    rows = pq.read_table(shard.rows)
    places = {key: i for i, key in enumerate(parts.keys())}
    failed = {(failure.id, failure.sample_idx): failure for failure in parts.failures}
    row_places, part_places, failures = [], [], []
    for i, row in enumerate(rows["id"].to_pylist()):
        for key in ((row, k) for k in range(num_samples)):
            if key in places:
                row_places.append(i)
                part_places.append(places[key])
            elif key in failed:
                failures.append(failed[key])
            else:
                raise EngineError(f"shard {shard.path.name}: the engine left out row {key[0]}, sample {key[1]}")
    table = to_dataset(rows.take(pa.array(row_places, pa.int64())), parts.table.take(pa.array(part_places, pa.int64())))
    write_table(shard.table, table)
    shard.upload(shard.table)
    summary = ShardSummary(
        num_rows=len(table),
        sha256=sha256_of(shard.table),
        totals=parts.totals,
        num_attempts=parts.num_attempts,
        num_set_aside=parts.num_set_aside,
        num_duplicates=parts.num_duplicates,
        failed=dict(Counter(failure.reason for failure in failures)),
        pace=coarse(parts.pace, PER_SHARD),
    )
    write_json(shard.summary, {**asdict(summary), "failures": [asdict(failure) for failure in failures]})
    shard.upload(shard.summary)
    return summary


def to_dataset(rows: pa.Table, records: pa.Table) -> pa.Table:
    """Planned rows beside their completions, as the published columns; both [N], row for row."""
    columns: dict[str, pa.ChunkedArray | pa.Array] = {name: records[name] for name in LEADING}
    names = published_names(name.removeprefix(PREFIX) for name in rows.column_names if name.startswith(PREFIX))
    columns |= {published: rows[f"{PREFIX}{name}"] for name, published in names.items()}
    columns |= {name: rows[name] for name in ("theta_prompt", "teacher_prompt", "example")}
    conversations = [
        [*messages, {"role": "assistant", "content": completion}]
        for messages, completion in zip(rows["messages"].to_pylist(), records["completion"].to_pylist(), strict=True)
    ]
    columns["messages"] = pa.array(conversations, rows.schema.field("messages").type)
    columns |= {name: records[name] for name in RECORD_SCHEMA.names if name not in LEADING}
    return pa.table(columns)
