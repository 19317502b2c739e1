"""The Prefect task that samples one shard.

A shard is complete when its summary, shard.json, is written.
"""

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
from sampling.processes.errors import as_message, from_message
from sampling.record import RECORD_SCHEMA
from tasks.config import ShardsConfig
from tasks.run.columns import PREFIX, answered, published_names
from tasks.run.folder import RunFolder
from tasks.run.pace import PER_SHARD, Pace, coarse
from tasks.run.parts import Failure, Key, Parts, Totals, is_whole, read_parts
from tasks.run.progress import Progress
from tasks.run.shard_folder import ShardFolder
from tasks.store.durable import output_errors, read_json, write_json
from tasks.worker.engine_process import EngineProcess

logger = logging.getLogger(__name__)

MAX_DELAY_S = 60.0
MAX_DELAYS = 50  # Prefect's limit; it repeats the last one
LEADING = ("id", "sample_idx")


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """The content of shard.json, but for the failures."""

    num_rows: int  # finished completions
    parts: list[str]  # file names, each with a digest of its content
    totals: Totals  # of the sampler, over all attempts
    num_attempts: int
    num_set_aside: int  # damaged parts
    num_duplicates: int
    failed: dict[str, int]  # completions that could not be sampled, by reason
    pace: Pace = field(default_factory=list)  # of the engine


def read_summary(shard: ShardFolder) -> ShardSummary | None:
    """Return the summary of a shard; None when it is not complete, or a part of it is damaged."""
    if (values := read_json(shard.summary)) is None:
        return None
    if damaged := [name for name in values["parts"] if not is_whole(shard.parts / name)]:
        logger.warning("shard %s: %s is damaged, its rows are sampled again", shard.path.name, damaged[0])
        return None
    del values["failures"]
    return ShardSummary(**values)


def read_failures(shard: ShardFolder) -> list[Failure]:
    """Return the completions of a complete shard that could not be sampled."""
    return [Failure(**failure) for failure in _read_complete(shard)["failures"]]


def read_table(shard: ShardFolder) -> pa.Table:
    """Return a complete shard's completions as the published columns, in the order of the planned rows.

    Raises OutputError when a part is missing or damaged.
    """
    parts = read_parts(shard.parts, _read_complete(shard)["parts"])
    rows = pq.read_table(shard.rows)
    indices = {key: i for i, key in enumerate(parts.keys())}
    samples = range(1 + max((sample_idx for _, sample_idx in indices), default=0))
    row_ids = enumerate(rows["id"].to_pylist())
    found = [(i, indices[row, k]) for i, row in row_ids for k in samples if (row, k) in indices]
    row_indices, part_indices = (pa.array([pair[side] for pair in found], pa.int64()) for side in (0, 1))
    return to_dataset(rows.take(row_indices), parts.table.take(part_indices))


def _read_complete(shard: ShardFolder) -> dict[str, Any]:
    values: dict[str, Any] | None = read_json(shard.summary)
    assert values is not None, "the shard must be complete"
    return values


def give_up(shard: ShardFolder, error: EngineError) -> None:
    """Record why a shard is given up, so that the other shards are still sampled."""
    message = as_message(error)
    write_json(shard.failure, {**message, "text": f"{message['text']} (on {socket.gethostname()})"})
    shard.upload(shard.failure)


def read_failure(shard: ShardFolder) -> EngineError | None:
    """Return why a shard was given up; None for one that was not."""
    if (values := read_json(shard.failure)) is None:
        return None
    error = from_message(values)
    assert isinstance(error, EngineError)
    return error


def retry_options(shards: ShardsConfig) -> dict[str, Any]:
    """Return the retry options of `sample_shard`: delays double up to MAX_DELAY_S."""
    delays = [min(MAX_DELAY_S, shards.retry_delay_s * 2**i) for i in range(min(shards.retries, MAX_DELAYS))]
    return {"retries": shards.retries, "retry_delay_seconds": delays or None}


def _is_retried(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether a fresh engine may help: not against a wrong configuration, a bug, or an unsupported vLLM."""
    return isinstance(state.data, EngineError) and not isinstance(state.data, UnsupportedVllmError)


@task(
    name="sample-shard",
    task_run_name="sample-shard-{index:05d}",
    cache_policy=NO_CACHE,
    retry_condition_fn=_is_retried,
)
def sample_shard(
    folder: RunFolder,
    index: int,
    num_samples: int,
    engine: EngineProcess,
    on_progress: Callable[[int, Progress], None],
    following: int | None = None,
) -> ShardSummary:
    """Sample the unfinished completions of a shard and complete it, while the engine begins the `following` one.

    `on_progress` is called with the shard's index and its progress, earlier attempts included. Raises the errors of
    `EngineProcess.sample`.
    """
    shard = folder.shard(index)
    if (summary := read_summary(shard)) is not None:
        num_failed = sum(summary.failed.values())
        on_progress(index, Progress(summary.num_rows + num_failed, num_failed))
        return summary
    with output_errors(folder.work):
        parts = Parts(RECORD_SCHEMA.empty_table()) if engine.is_at(shard) else read_parts(shard.parts)
        done, num_failed = parts.done(), len(parts.failures)

        def report(now: Progress) -> None:
            both = replace(now, num_done=len(done) + now.num_done, num_failed=num_failed + now.num_failed)
            on_progress(index, both)

        report(Progress(0, 0))
        if not done.issuperset(_planned(shard, num_samples)):
            try:
                engine.sample(shard, done, report)
            except EngineError as error:
                logger.warning("shard %05d: %s", index, error)  # for the terminal; Prefect's UI shows the exception
                raise type(error)(f"shard {index:05d}: {error}") from error
            if following is not None and _is_untouched(folder.shard(following)):
                engine.begin(folder.shard(following))
            parts = read_parts(shard.parts)
        return complete(shard, num_samples, parts)


def _planned(shard: ShardFolder, num_samples: int) -> list[Key]:
    ids = pq.read_table(shard.rows, columns=["id"])["id"].to_pylist()
    return [(row, k) for row in ids for k in range(num_samples)]


def _is_untouched(shard: ShardFolder) -> bool:
    return not shard.is_ended() and shard.parts.is_dir() and not any(shard.parts.iterdir())


def complete(shard: ShardFolder, num_samples: int, parts: Parts) -> ShardSummary:
    """Write the shard's summary, which completes it.

    Raises EngineError when a row is neither finished nor failed.
    """
    done, planned = parts.done(), _planned(shard, num_samples)
    if left_out := next((key for key in planned if key not in done), None):
        raise EngineError(f"shard {shard.path.name}: the engine left out row {left_out[0]}, sample {left_out[1]}")
    failed = {(failure.id, failure.sample_idx): failure for failure in parts.failures}
    failures = [failed[key] for key in planned if key in failed]
    summary = ShardSummary(
        num_rows=len(planned) - len(failures),
        parts=parts.names,
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
    """Return planned rows with their completions as the published columns; both tables are [N], row for row."""
    columns: dict[str, pa.ChunkedArray | pa.Array] = {name: records[name] for name in LEADING}
    names = published_names(name.removeprefix(PREFIX) for name in rows.column_names if name.startswith(PREFIX))
    columns |= {published: rows[f"{PREFIX}{name}"] for name, published in names.items()}
    columns |= {name: rows[name] for name in ("theta_prompt", "teacher_prompt", "example")}
    conversations = [
        answered(messages, completion)
        for messages, completion in zip(rows["messages"].to_pylist(), records["completion"].to_pylist(), strict=True)
    ]
    columns["messages"] = pa.array(conversations, rows.schema.field("messages").type)
    columns |= {name: records[name] for name in RECORD_SCHEMA.names if name not in LEADING}
    return pa.table(columns)
