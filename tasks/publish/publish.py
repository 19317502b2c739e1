"""The Prefect tasks that stage, judge and publish a dataset in one transaction."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.transactions import CommitMode, Transaction, transaction

from sampling.errors import DualSamplingError, OutputError, RefusedError
from tasks.config import PipelineConfig
from tasks.publish.card import card
from tasks.publish.documents import write_report
from tasks.publish.staging import Staged, stage
from tasks.run.dataset_metadata import read_metadata
from tasks.run.folder import RunFolder
from tasks.run.pace import speeds
from tasks.run.parts import Key
from tasks.run.plan import Plan
from tasks.source.seen import Seen
from tasks.store.durable import output_errors, sync, write_bytes, write_json
from tasks.store.manifest import MANIFEST, ListedFile
from tasks.worker.shard import ShardSummary, read_failures
from validations.measure.metadata import Quarantine

if TYPE_CHECKING:
    from validations.verdict import Verdict

NUM_SLOWEST = 10  # shards named in the manifest


@dataclass(frozen=True, slots=True)
class Run:
    """The run that made the dataset, for its documents."""

    config: PipelineConfig
    plan: Plan
    libraries: dict[str, str]
    shards: list[ShardSummary]


def publish_dataset(folder: RunFolder, run: Run, check: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Stage, judge and publish the dataset; return its manifest. `check` raises when the run's lock is lost.

    Raises RefusedError when the gate refuses; the dataset is then in `folder.refused`, and the work is kept, so that a
    run with other limits samples nothing again. Any error removes the staged files and leaves `latest` unchanged.
    """
    with output_errors(folder.work), transaction(commit_mode=CommitMode.LAZY) as undoable:
        undoable.set("staged", folder.staged)
        staged = stage_dataset(folder, run)
        verdict = judge_dataset(folder, run, staged)
        if not verdict.passed:
            set_aside(folder, run, staged, verdict, check)
            raise RefusedError(
                f"{'; '.join(verdict.refusals)} (the dataset with its report: {folder.address(folder.refused)})"
            )
        # Not an on_commit hook: Prefect only logs an error of a hook.
        manifest = publish_staged(folder, run, staged, verdict, check)
    with output_errors(folder.work):
        finish(folder, check)
    return manifest


@task(name="stage-dataset", cache_policy=NO_CACHE)
def stage_dataset(folder: RunFolder, run: Run) -> Staged:
    """Write the dataset's files into the work folder, and verify that no row is lost or duplicated."""
    try:
        staged = stage(folder, run.plan, run.shards)
        verify(folder, run, staged)
    except BaseException:  # Prefect rolls back only tasks that have completed
        shutil.rmtree(folder.staged, ignore_errors=True)
        raise
    return staged


@stage_dataset.on_rollback
def discard_staged(undone: Transaction) -> None:
    """Remove the staged files."""
    shutil.rmtree(undone.get("staged"), ignore_errors=True)


@task(name="judge-dataset", cache_policy=NO_CACHE)
def judge_dataset(folder: RunFolder, run: Run, staged: Staged) -> Verdict:
    """Judge the staged rows by the configuration's limits."""
    from validations.gate import judge  # Great Expectations takes 5-11 s to import

    quarantine = Quarantine(staged.quarantine, run.plan.num_rows, run.config.sampling.n)
    metadata = replace(read_metadata(folder.staged), quarantine=quarantine)
    return judge([folder.staged / file.path for file in staged.files], run.config.validation, metadata)


@task(name="publish-dataset", cache_policy=NO_CACHE)
def publish_staged(
    folder: RunFolder, run: Run, staged: Staged, verdict: Verdict, check: Callable[[], None]
) -> dict[str, Any]:
    """Write the documents, then rename the folder: with the rename the dataset exists. Return its manifest."""
    manifest = write_documents(folder, run, staged, verdict)
    if folder.published.exists():
        address = folder.address(folder.published)
        raise OutputError(f"{address} has come into being meanwhile; choose another publish.version")
    _move_staged(folder, folder.published, check)
    return manifest


def set_aside(folder: RunFolder, run: Run, staged: Staged, verdict: Verdict, check: Callable[[], None]) -> None:
    """Move a refused dataset, with its documents, to `folder.refused`."""
    write_documents(folder, run, staged, verdict)
    folder.refused.parent.mkdir(parents=True, exist_ok=True)
    folder.check_refused()
    shutil.rmtree(folder.refused, ignore_errors=True)  # an earlier one of this run
    _move_staged(folder, folder.refused, check)


def _move_staged(folder: RunFolder, target: Path, check: Callable[[], None]) -> None:
    os.rename(folder.staged, target)
    sync(target.parent)
    folder.upload_dataset(target, check)


def finish(folder: RunFolder, check: Callable[[], None]) -> None:
    """Point `latest` to this version, and remove the work; `check` raises when the run's lock is lost."""
    check()
    folder.point_latest()
    check()
    folder.remove_work()


def verify(folder: RunFolder, run: Run, staged: Staged) -> None:
    """Read the staged keys again: each planned completion must be there once, or quarantined, in the plan's order.

    Keeps the keys of one shard in memory. Raises DualSamplingError when one is lost, unplanned, or duplicated.
    """
    num_samples, num_rows = run.config.sampling.n, 0
    found = _staged_keys(folder, staged)
    with Seen() as seen:
        for i in range(run.plan.num_shards):
            failed = {(failure.id, failure.sample_idx) for failure in read_failures(folder.shard(i))}
            ids = pq.read_table(folder.shard(i).rows, columns=["id"])["id"].to_pylist()
            keys = [(row, k) for row in ids for k in range(num_samples) if (row, k) not in failed]
            num_rows += len(ids)
            is_whole = list(islice(found, len(keys))) == keys and len(keys) + len(failed) == len(ids) * num_samples
            # Keys equal to the planned ones, in order, are unique when no id is planned twice.
            if not is_whole or any(seen.add(row) for row in ids):
                raise _not_as_planned(folder, run, staged, f"shard {i:05d} differs")
    if num_rows != run.plan.num_rows or next(found, None) is not None:
        raise _not_as_planned(folder, run, staged, f"{num_rows} rows in the shards")


def _staged_keys(folder: RunFolder, staged: Staged) -> Iterator[Key]:
    for file in staged.files:
        with pq.ParquetFile(folder.staged / file.path) as rows:
            for batch in rows.iter_batches(columns=["id", "sample_idx"]):
                yield from zip(batch["id"].to_pylist(), batch["sample_idx"].to_pylist(), strict=True)


def _not_as_planned(folder: RunFolder, run: Run, staged: Staged, what: str) -> DualSamplingError:
    num_planned, num_staged = run.plan.num_rows * run.config.sampling.n, sum(file.num_rows for file in staged.files)
    return DualSamplingError(
        f"the staged rows are not the planned ones: {num_planned} planned, {num_staged} staged, {what}; nothing was"
        f" published and {folder.address(folder.work)} is kept"
    )


def write_documents(folder: RunFolder, run: Run, staged: Staged, verdict: Verdict) -> dict[str, Any]:
    """Write the reports, the card, and manifest.json last, with the data before it flushed. Return the manifest."""
    for file in staged.files:
        sync(folder.staged / file.path)
    sync(folder.staged / "data")
    manifest = {
        "name": folder.name,
        "version": folder.version,
        "run_id": folder.run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "published": verdict.passed,
        "num_rows": staged.num_rows,
        "files": [asdict(file) for file in staged.files],
        "figures": verdict.metrics,
        "refusals": list(verdict.refusals),
        "warnings": list(verdict.warnings),
        "quarantine": staged.quarantine,
        "engine": staged.totals,
        "speed": speeds(shard.pace for shard in run.shards),
        "slowest_shards": _slowest(run.shards),
        "num_attempts": sum(shard.num_attempts for shard in run.shards),
        "num_damaged_parts": staged.num_set_aside,
        "source": {"adapter": run.plan.adapter, "files": run.plan.files, "num_rows": run.plan.num_rows},
        "config": run.config.model_dump(mode="json"),
        "identity": folder.identity,
        "libraries": run.libraries,
    }
    write_report(folder.staged, f"{folder.name} {folder.version}", verdict, manifest)
    example = _example(folder.staged / staged.files[0].path)
    text = card(run.config, folder.version, run.plan, staged, verdict.metrics, example)
    write_bytes(folder.staged / "README.md", text.encode())
    beside = sorted(path for path in folder.staged.rglob("*") if path.is_file() and path.suffix != ".parquet")
    manifest["documents"] = [asdict(ListedFile.of(folder.staged, path)) for path in beside]
    write_json(folder.staged / MANIFEST, manifest)
    return manifest


def _slowest(shards: list[ShardSummary]) -> list[dict[str, Any]]:
    """Return the shards with the fewest tokens a second."""
    timed = [
        {
            "shard": i,
            "num_rows": shard.num_rows,
            "num_tokens": shard.totals["num_tokens"],
            "seconds": round(shard.totals["total_s"], 6),
            "num_attempts": shard.num_attempts,
        }
        for i, shard in enumerate(shards)
        if shard.totals.get("total_s")
    ]
    return sorted(timed, key=lambda shard: shard["num_tokens"] / shard["seconds"])[:NUM_SLOWEST]


def _example(path: Path) -> dict[str, str]:
    with pq.ParquetFile(path) as file:
        columns = ["theta_prompt", "teacher_prompt", "completion"]
        row: Mapping[str, str] = next(file.iter_batches(1, columns=columns)).to_pylist()[0]
    return {"Theta sees": row["theta_prompt"], "The teacher sees": row["teacher_prompt"], "Drawn": row["completion"]}
