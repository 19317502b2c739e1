"""The prompts that all modes share."""

from __future__ import annotations

from flows.cli.bench.job import Job
from flows.cli.bench.measure import prompts


def test_every_mode_has_the_same_prompts_every_wave_others(job: Job) -> None:
    job = job.model_copy(update={"prompt_tokens": 1000, "num_ids": 5})
    waves = [prompts(job, wave) for wave in range(3)]
    assert waves == [prompts(job.model_copy(update={"mode": "lockstep"}), wave) for wave in range(3)]
    rows = [row for wave in waves for row in wave]
    assert len(set(rows)) == 3 * 2  # a prefix cache finds nothing
    assert all(len(row) == 1000 and set(row) == {0, 1, 2, 3, 4} for row in rows)
