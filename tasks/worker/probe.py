"""Early quality checks, of a run's prompts before sampling, then of its first completions.

They stop a hopeless run after minutes instead of GPU-days.
"""

from __future__ import annotations

import logging

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sampling.errors import RefusedError
from tasks.run.columns import answered
from tasks.run.dataset_metadata import read_metadata
from tasks.run.folder import RunFolder
from tasks.run.parts import read_parts
from tasks.run.plan import Plan
from tasks.run.progress import Progress
from validations.limits import Limits
from validations.measure.metadata import Quarantine
from validations.measure.metrics import MetricSums
from validations.measure.prompts import judge_prompts
from validations.suites import probe_checks, prompt_checks

logger = logging.getLogger(__name__)

PROMPT_COLUMNS = ["id", "theta_prompt", "teacher_prompt", "messages", "example"]
COLUMNS = ["finish_reason", "num_tokens", "num_forced", "num_fallback"]


def check_prompts(folder: RunFolder, plan: Plan, limits: Limits) -> None:
    """Judge the planned prompts before anything is sampled. Raises RefusedError."""
    if not (checks := prompt_checks(limits)):
        return
    from validations.gate import judge_metrics  # Great Expectations takes 5-11 s to import; publishing needs it too

    metadata, sums = read_metadata(folder.work), MetricSums()
    for index in range(plan.num_shards):
        rows = pq.read_table(folder.shard(index).rows, columns=PROMPT_COLUMNS)
        # The checks read conversations that end with the completion.
        messages = [answered(turns, "") for turns in rows["messages"].to_pylist()]
        field = rows.schema.field("messages")
        index_of_messages = rows.schema.get_field_index(field.name)
        rows = rows.set_column(index_of_messages, field, pa.array(messages, field.type))
        sums.add_prompts(judge_prompts(rows, metadata), [f"row {row}" for row in rows["id"].to_pylist()])
    metrics = sums.metrics(teacher_sees_reference=metadata.teacher_sees_reference)
    quarantine = Quarantine(plan.quarantine, plan.num_rows, 1)
    metrics["quarantine_rate"] = quarantine.rate(plan.num_rows)
    if metrics["leak_rate"] is None:
        logger.warning(
            "leaks not judged: no reference is known; map the answer's column in source.columns if there is one"
        )
    if lines := judge_metrics(metrics, checks, sums.first_rows() | {"quarantine_rate": quarantine.counts()}):
        raise RefusedError(
            f"{'; '.join(lines)}; nothing was sampled. Look at the prompts and the quarantine (--dry-run), mend the"
            " templates or the source, or change the limit in validation"
        )


class Probe:
    """A check of the first completions, made once, as soon as there are `probe_rows` of them."""

    def __init__(self, folder: RunFolder, limits: Limits) -> None:
        self._folder = folder
        self._checks = probe_checks(limits)
        self._probe_rows = limits.probe_rows if self._checks else None
        self._num_done: dict[int, int] = {}

    def __call__(self, shard: int, now: Progress) -> None:
        """Take the progress of a shard. Raises RefusedError when the run is hopeless."""
        if self._probe_rows is None:
            return
        self._num_done[shard] = now.num_done - now.num_failed
        if sum(self._num_done.values()) < self._probe_rows:
            return
        rows = self._committed()
        if len(rows) < self._probe_rows:
            return
        from validations.gate import judge_metrics  # Great Expectations takes 5-11 s to import

        self._probe_rows = None
        if lines := judge_metrics(_metrics(rows), self._checks):
            work = self._folder.address(self._folder.work)
            raise RefusedError(
                f"{'; '.join(lines)}; the first {len(rows)} completions leave no hope, so the run was stopped. What is"
                f" sampled is kept in {work}. Look at the prompts (--dry-run) and at mixture, or set"
                " validation.probe_rows: null to sample on"
            )

    def _committed(self) -> pa.Table:
        """Return the committed completions of all shards with progress."""
        for index in self._num_done:
            self._folder.shard(index).download()
        tables = (read_parts(self._folder.shard(index).parts).table for index in self._num_done)
        return pa.concat_tables(table.select(COLUMNS) for table in tables)


def _metrics(rows: pa.Table) -> dict[str, float | int | None]:
    """Return the shares of fallback among tokens that are not forced, and of completions that ended by themselves."""
    num_tokens, num_forced, num_fallback = (pc.sum(rows[name]).as_py() for name in COLUMNS[1:])
    num_ended = pc.sum(pc.not_equal(rows["finish_reason"], "length")).as_py()
    free = num_tokens - num_forced
    return {"fallback_rate": num_fallback / free if free else None, "eos_rate": num_ended / len(rows)}
