"""Tests of the prompts that all modes share."""

from __future__ import annotations

from flows.cli.bench.measure import prompts
from flows.cli.bench.plan import Job


def test_prompts_are_the_same_in_every_mode_and_differ_in_each_wave(job: Job) -> None:
    job = job.model_copy(update={"prompt_tokens": 1000, "num_ids": 5})
    waves = [prompts(job, wave) for wave in range(3)]
    assert waves == [prompts(job.model_copy(update={"mode": "lockstep"}), wave) for wave in range(3)]
    rows = [row for wave in waves for row in wave]
    assert len(set(rows)) == 3 * 2  # nothing for a prefix cache to reuse
    assert all(len(row) == 1000 and set(row) == {0, 1, 2, 3, 4} for row in rows)
