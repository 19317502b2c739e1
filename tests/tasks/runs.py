"""Runs for tests without an engine: planned rows, and parts with made-up completions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.config import PipelineConfig
from tasks.run.folder import RunFolder
from tasks.run.parts import PartWriter, read_parts
from tasks.run.plan import Plan, write_plan
from tasks.source.example import REFERENCE_FIELDS, Example
from tasks.source.rows import PreparedRow, QuarantinedRow, SourceReport
from tasks.worker.shard import ShardSummary, complete
from tests.tasks.outputs import byte_speller, make_failure, make_output
from tests.tiny import LAX

PROMPTS = {
    "teacher": {"style": "plain", "template": "{{ question }} {{ answer }}"},
    "theta": {"style": "plain", "template": "{{ question }}"},
}


def make_config(root: Path, **sections: Any) -> PipelineConfig:
    """Return a valid configuration, whose models and source do not exist."""
    values = {
        "name": "d",
        "source": {"path": "rows.jsonl"},
        "prompts": PROMPTS,
        "models": {"teacher": {"model": "a"}, "theta": {"model": "b"}},
        "shards": {"rows": 4, "retry_delay_s": 0.0},
        "validation": LAX,
        "publish": {"root": str(root)},
    }
    return PipelineConfig.model_validate(values | sections)


def make_report(config: PipelineConfig) -> SourceReport:
    return SourceReport("gsm8k", ("question", "answer"), config.prompts, ("rows.jsonl",), "f" * 32, REFERENCE_FIELDS)


def make_row(i: int, **fields: Any) -> PreparedRow:
    encode = byte_speller().encode
    return PreparedRow(
        id=f"{i:032x}",
        fields={"question": f"What is {i}?", "answer": f"#### {i}", **fields},
        theta_prompt=f"What is {i}?",
        teacher_prompt=f"What is {i}? #### {i}",
        theta_prompt_ids=encode(f"What is {i}?"),
        teacher_prompt_ids=encode(f"What is {i}? #### {i}"),
        messages=[{"role": "user", "content": f"What is {i}?"}],
        example=Example(f"What is {i}?", f"#### {i}", final_answer=str(i)),
    )


def make_run(config: PipelineConfig, rows: Iterable[PreparedRow | QuarantinedRow]) -> tuple[RunFolder, Plan]:
    """Plan the rows of a run."""
    folder = RunFolder.of(config, {"sampling": config.sampling.model_dump(mode="json")})
    folder.work.mkdir(parents=True)
    folder.write_run(config, {})
    return folder, write_plan(folder, make_report(config), iter(rows), config.shards.rows)


def sample(
    folder: RunFolder, config: PipelineConfig, index: int, ids: list[str], failing: frozenset[str] = frozenset()
) -> ShardSummary:
    """Commit made-up completions of a shard, and complete it."""
    shard = folder.shard(index)
    writer = PartWriter(shard.parts, "attempt")
    for row in ids:
        for k in range(config.sampling.n):
            result = make_failure(row, k) if row in failing else make_output(row, k)
            writer.add(result, {"num_tokens": 5.0})
    writer.close()
    return complete(shard, config.sampling.n, read_parts(shard.parts))


def sample_all(
    folder: RunFolder, config: PipelineConfig, plan: Plan, failing: frozenset[str] = frozenset()
) -> list[ShardSummary]:
    """Complete every shard of a run whose rows are `make_row(0)`, `make_row(1)`, …"""
    ids = [make_row(i).id for i in range(plan.num_rows)]
    size = config.shards.rows
    return [sample(folder, config, i, ids[i * size : (i + 1) * size], failing) for i in range(plan.num_shards)]
