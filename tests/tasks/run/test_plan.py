"""Tests of the plan: every row once, in order, in shards; it exists when all rows are planned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sampling.errors import OutputError, SourceError
from tasks.run.folder import RunFolder
from tasks.run.plan import read_plan, write_plan
from tasks.source.rows import PreparedRow, QuarantinedRow
from tasks.store.durable import read_json, write_json
from tests.tasks.outputs import byte_speller
from tests.tasks.runs import make_config, make_report, make_row, make_run

BAD = QuarantinedRow("rows.jsonl:3", "not_json", "Expecting value")


def test_rows_are_cut_into_shards_and_bad_ones_counted(tmp_path: Path) -> None:
    rows: list[PreparedRow | QuarantinedRow] = [make_row(0), make_row(1), BAD, *(make_row(i) for i in range(2, 10))]
    folder, plan = make_run(make_config(tmp_path), rows)
    assert (plan.num_rows, plan.num_shards, plan.quarantine) == (10, 3, {"not_json": 1})
    assert read_plan(folder) == plan
    tables = [pq.read_table(folder.shard(i).rows) for i in range(3)]
    assert [len(table) for table in tables] == [4, 4, 2]
    assert [row for table in tables for row in table["id"].to_pylist()] == [make_row(i).id for i in range(10)]
    assert tables[2].to_pylist()[1] == {
        "id": f"{9:032x}",
        "theta_prompt": "What is 9?",
        "teacher_prompt": "What is 9? #### 9",
        "theta_prompt_ids": byte_speller().encode("What is 9?"),
        "teacher_prompt_ids": byte_speller().encode("What is 9? #### 9"),
        "messages": [{"role": "user", "content": "What is 9?"}],
        "example": {"question": "What is 9?", "answer": "#### 9", "solution": None, "final_answer": "9"},
        "source:question": "What is 9?",
        "source:answer": "#### 9",
    }
    assert [json.loads(line) for line in folder.quarantine.read_text().splitlines()] == [
        {"row": "rows.jsonl:3", "reason": "not_json", "detail": "Expecting value", "id": None}
    ]


def test_a_shard_of_large_rows_has_fewer_of_them(tmp_path: Path) -> None:
    """They are in memory together: 1,000 rows of the largest size would take 32 GB."""
    rows = [make_row(i, passage="x" * (24 << 20) if i in (1, 2, 3) else "x") for i in range(6)]
    folder, plan = make_run(make_config(tmp_path), rows)
    assert (plan.num_rows, plan.num_shards) == (6, 2)
    assert [pq.read_metadata(folder.shard(i).rows).num_rows for i in range(2)] == [4, 2]
    rows = [make_row(i, passage="x" * (48 << 20)) for i in range(3)]
    folder, plan = make_run(make_config(tmp_path / "b"), rows)
    assert [pq.read_metadata(folder.shard(i).rows).num_rows for i in range(plan.num_shards)] == [2, 1]


def test_columns_have_one_type_in_all_shards(tmp_path: Path) -> None:
    rows = [make_row(i, level=i if i < 4 else f"level {i}") for i in range(8)]
    folder, _ = make_run(make_config(tmp_path), rows)
    levels = [pq.read_table(folder.shard(i).rows)["source:level"].to_pylist() for i in range(2)]
    assert levels == [["0", "1", "2", "3"], [f'"level {i}"' for i in range(4, 8)]]


def test_an_interrupted_planning_starts_over(tmp_path: Path) -> None:
    config = make_config(tmp_path)

    def broken() -> Iterator[PreparedRow]:
        yield from (make_row(i) for i in range(100, 109))
        raise SourceError("the source ends in the middle of a row")

    with pytest.raises(SourceError, match="in the middle"):
        make_run(config, broken())
    folder = RunFolder.of(config, {"sampling": config.sampling.model_dump(mode="json")})
    assert read_plan(folder) is None
    assert folder.shard(1).rows.exists()
    plan = write_plan(folder, make_report(config), (make_row(i) for i in range(3)), 4)
    assert (plan.num_rows, plan.num_shards) == (3, 1)
    assert not folder.shard(1).path.exists()


def test_a_plan_of_another_format_is_refused(tmp_path: Path) -> None:
    folder, _ = make_run(make_config(tmp_path), [make_row(0)])
    values = read_json(folder.plan)
    assert isinstance(values, dict)
    del values["format"]  # as the first version wrote it
    write_json(folder.plan, values)
    with pytest.raises(OutputError, match=r"planned in format 1, this version reads format 2; finish that run"):
        read_plan(folder)


def test_no_row_left_is_an_error_that_counts(tmp_path: Path) -> None:
    empty = QuarantinedRow("rows.jsonl:4", "empty_field", "question is empty", id="ab")
    with pytest.raises(SourceError, match=r"all 3 are quarantined \(not_json 2, empty_field 1\); .*quarantine.jsonl"):
        make_run(make_config(tmp_path), [BAD, empty, BAD])
