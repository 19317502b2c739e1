"""Tests of source columns: one type in all shards, and no value lost where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.run.columns import JSON, answered, published_names, source_columns, unify_shards, write_table
from tests.validations.tables import made_row, to_table
from validations.measure.metadata import DatasetMetadata
from validations.measure.prompts import judge_prompts


def unified(tmp_path: Path, *shards: list[dict[str, Any]]) -> list[pa.Table]:
    paths = [tmp_path / f"{i}.parquet" for i in range(len(shards))]
    for path, rows in zip(paths, shards, strict=True):
        write_table(path, source_columns(rows))
    unify_shards(paths)
    tables = [pq.read_table(path) for path in paths]
    assert all(table.schema.equals(tables[0].schema, check_metadata=True) for table in tables)
    pa.concat_tables(tables)  # what staging does
    return tables


@pytest.mark.parametrize(
    ("first", "second", "kind", "values"),
    [
        (1, 2, pa.int64(), [1, 2]),
        (1, 2.5, pa.float64(), [1.0, 2.5]),
        (None, "x", pa.string(), [None, "x"]),
        (None, None, pa.string(), [None, None]),
        ([], ["x"], pa.list_(pa.string()), [[], ["x"]]),
        ({"a": 1}, {"b": "x"}, pa.struct([("a", pa.int64()), ("b", pa.string())]),
         [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
        (datetime(2026, 1, 2), None, pa.timestamp("us"), [datetime(2026, 1, 2), None]),
        (b"\xff", None, pa.binary(), [b"\xff", None]),
    ],
)  # fmt: skip
def test_types_that_have_a_common_one(
    tmp_path: Path, first: Any, second: Any, kind: pa.DataType, values: list[Any]
) -> None:
    tables = unified(tmp_path, [{"c": first}], [{"c": second}])
    assert tables[0].schema.field("source:c").type == kind
    assert [row["source:c"] for table in tables for row in table.to_pylist()] == values


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, "x"),
        (True, 1),
        ({"a": 1}, {"a": "x"}),
        ([1], "x"),
        (2**70, 1),  # no int64
        (2**60 + 1, 2.5),  # no float64: only the values tell, the types would fit
        ({}, {}),  # a struct without fields, which Parquet cannot hold
        ("\ud800", "x"),  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
    ],
)
@pytest.mark.parametrize("num_shards", [1, 2])
def test_values_without_a_common_type_become_json(tmp_path: Path, first: Any, second: Any, num_shards: int) -> None:
    rows = [{"c": first, "d": 1}, {"c": second, "d": 2}, {"c": None, "d": 3}]
    tables = unified(tmp_path, *([rows] if num_shards == 1 else [rows[:1], rows[1:]]))
    assert tables[0].schema.field("source:c").metadata == JSON
    values = [row["source:c"] for table in tables for row in table.to_pylist()]
    assert [value if value is None else json.loads(value) for value in values] == [first, second, None]
    assert [row["source:d"] for table in tables for row in table.to_pylist()] == [1, 2, 3]


def test_a_column_that_a_shard_lacks_is_null_there(tmp_path: Path) -> None:
    first, second = unified(tmp_path, [{"a": 1}], [{"b": "x"}])
    assert first.to_pylist() == [{"source:a": 1, "source:b": None}]
    assert second.to_pylist() == [{"source:a": None, "source:b": "x"}]


def test_a_taken_name_is_published_under_another() -> None:
    assert published_names(["question", "id", "messages", "source_id"]) == {
        "question": "question",
        "id": "source_source_id",  # source_id is the source's own
        "messages": "source_messages",
        "source_id": "source_id",
    }


@pytest.mark.parametrize("begun", ["", "<think>\n"])
def test_an_answer_stands_behind_what_the_chat_template_began_it_with(begun: str) -> None:
    """And the gate agrees with it where theta's prompt ends so, alone."""
    row = made_row(0)
    asked = [row["messages"][0], *([{"role": "assistant", "content": begun}] if begun else [])]
    row["messages"] = answered(asked, row["completion"])
    assert row["messages"][1:] == [{"role": "assistant", "content": begun + row["completion"]}]
    for ending, agrees in ((begun, True), ("", not begun)):
        table = to_table([row | {"theta_prompt": row["theta_prompt"] + ending}])
        found = judge_prompts(table, DatasetMetadata()).messages
        assert found is not None
        assert found.tolist() == [agrees]


def nest(depth: int, wrap: Callable[[Any], Any]) -> Any:
    return reduce(lambda inner, _: wrap(inner), range(depth), 1)


@pytest.mark.parametrize("wrap", [lambda x: {"a": x}, lambda x: [x], lambda x: [{"a": x}], lambda x: [x, None]])
@pytest.mark.parametrize("depth", [5, 30, 49, 60, 101, 400])
def test_a_field_that_nests_too_deep_for_parquet_becomes_json(
    tmp_path: Path, wrap: Callable[[Any], Any], depth: int
) -> None:
    """Else one row of a stranger's file ends the whole run."""
    value = nest(depth, wrap)
    (table,) = unified(tmp_path, [{"c": 1, "x": value}, {"c": 2, "x": None}])
    found, none = table["source:x"].to_pylist()
    assert (json.loads(found) if isinstance(found, str) else found, none) == (value, None)


def test_objects_with_keys_of_their_own_become_json(tmp_path: Path) -> None:
    """A column for each key of each row would take memory with the square of the rows."""
    few, many = ([{"c": "x", "x": {f"{i}_{j}": 1 for j in range(num)}} for i in range(100)] for num in (9, 100))
    shards = unified(tmp_path, few, few)
    assert all(pa.types.is_struct(table.schema.field("source:x").type) for table in shards)
    shards = unified(tmp_path, few, many)
    assert [json.loads(text) for text in shards[1]["source:x"].to_pylist()] == [row["x"] for row in many]
    halves = [[{"x": {f"{i}_{j}": 1 for j in range(600)}}] for i in range(2)]  # together more than MAX_FIELDS
    assert {table.schema.field("source:x").type for table in unified(tmp_path, *halves)} == {pa.string()}
    apart = [{f"{i}": {f"{i}_{j}": 1 for j in range(100)} for i in range(20)}]  # in many columns
    types = [field.type for field in unified(tmp_path, apart)[0].schema]
    assert [pa.types.is_struct(kind) for kind in types] == [True] * 10 + [False] * 10
