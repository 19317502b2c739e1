"""Tests of a shard's task: its rows of the dataset follow from the plan and the completions alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampling.errors import EngineError
from sampling.record import RECORD_SCHEMA
from tasks.config import ShardsConfig
from tasks.run.parts import PartWriter, read_parts
from tasks.run.progress import Progress
from tasks.worker.engine_process import EngineProcess
from tasks.worker.shard import complete, read_failures, read_summary, read_table, retry_options, sample_shard
from tests.tasks.outputs import make_failure, make_output
from tests.tasks.runs import make_config, make_row, make_run, sample

IDS = [make_row(i).id for i in range(4)]


def test_rows_meet_their_completions_in_the_order_of_the_rows(tmp_path: Path) -> None:
    config = make_config(tmp_path, sampling={"n": 2})
    folder, _ = make_run(config, [make_row(i, id=i, js="taken") for i in range(4)])
    summary = sample(folder, config, 0, IDS[::-1], failing=frozenset([IDS[1]]))
    rows = read_table(folder.shard(0)).to_pylist()
    assert [(row["id"], row["sample_idx"]) for row in rows] == [(IDS[i], k) for i in (0, 2, 3) for k in (0, 1)]
    row = rows[-1]
    assert list(row) == [
        *("id", "sample_idx", "question", "answer", "source_id", "source_js", "theta_prompt", "teacher_prompt"),
        *("example", "messages", *RECORD_SCHEMA.names[2:]),
    ]
    assert (row["source_id"], row["source_js"], row["question"]) == (3, "taken", "What is 3?")
    assert row["messages"] == [
        {"role": "user", "content": "What is 3?"},
        {"role": "assistant", "content": row["completion"]},
    ]
    assert row["example"] == {
        "question": "What is 3?", "answer": "#### 3", "solution": None, "final_answer": "3",
    }  # fmt: skip
    assert row["token_ids"] == list(make_output(IDS[3], 1).token_ids)
    assert len(row["js"]) == row["num_tokens"]
    assert (summary.num_rows, summary.failed) == (6, {"prompt_too_long": 2})
    assert [(failure.id, failure.sample_idx) for failure in read_failures(folder.shard(0))] == [
        (IDS[1], 0),
        (IDS[1], 1),
    ]
    assert read_summary(folder.shard(0)) == summary


def test_the_same_rows_in_whatever_order_the_rows_finished(tmp_path: Path) -> None:
    tables = []
    for name, order in (("a", [0, 1, 2, 3]), ("b", [2, 0, 3, 1])):
        config = make_config(tmp_path / name)
        folder, _ = make_run(config, [make_row(i) for i in range(4)])
        for i in order[:2]:  # a crash
            writer = PartWriter(folder.shard(0).parts, "first")
            writer.add(make_output(IDS[i]), {})
            writer.close()
        sample(folder, config, 0, [IDS[i] for i in order[2:]])
        tables.append(read_table(folder.shard(0)))
    assert tables[0] == tables[1]


def test_a_row_that_the_engine_left_out_is_an_error(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    folder, _ = make_run(config, [make_row(i) for i in range(4)])
    with pytest.raises(EngineError, match=f"shard 00000: the engine left out row {IDS[3]}, sample 0"):
        sample(folder, config, 0, IDS[:3])
    assert read_summary(folder.shard(0)) is None


def test_a_shard_with_all_rows_done_needs_no_engine(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    folder, _ = make_run(config, [make_row(i) for i in range(4)])
    writer = PartWriter(folder.shard(0).parts, "a")
    for row in IDS:
        writer.add(make_failure(row) if row == IDS[0] else make_output(row), {"num_tokens": 15})
    writer.close()
    seen: list[tuple[int, Progress]] = []
    with EngineProcess(config, folder) as engine:  # its models do not exist
        summary = sample_shard.fn(folder, 0, 1, engine, lambda *now: seen.append(now))
        assert engine.pid is None
        assert sample_shard.fn(folder, 0, 1, engine, lambda *now: seen.append(now)) == summary
    assert seen == [(0, Progress(4, 1))] * 2
    assert summary.totals == {"num_tokens": 15}
    assert complete(folder.shard(0), 1, read_parts(folder.shard(0).parts)) == summary
    # A part is damaged afterwards: its rows are to be sampled again.
    (part,) = folder.shard(0).parts.iterdir()
    part.write_bytes(part.read_bytes()[:-1])
    assert read_summary(folder.shard(0)) is None


def test_pauses_between_attempts_double_up_to_a_minute() -> None:
    assert retry_options(ShardsConfig(retries=3, retry_delay_s=0.5)) == {
        "retries": 3,
        "retry_delay_seconds": [0.5, 1.0, 2.0],
    }
    assert retry_options(ShardsConfig(retries=0)) == {"retries": 0, "retry_delay_seconds": None}
    most = retry_options(ShardsConfig(retries=100))
    assert len(most["retry_delay_seconds"]) == 50
    assert most["retry_delay_seconds"][-1] == 60.0
    sample_shard.with_options(**most)  # Prefect takes it
