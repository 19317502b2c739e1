"""Tests of JSON text: lists, wrapped lists, documents after each other, in chunks of any size."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling.errors import SourceError
from tasks.source import json_text
from tasks.source.source_row import QuarantinedRow
from tests.tasks.source.test_readers import BOUNDS, fields_of, read


@pytest.mark.parametrize(
    ("name", "content", "numbers"),
    [
        ("a.json", '[{"n": 1}]\n[{"n": 2}, {"n": 3}]', [1, 2, 3]),
        ("a.json", '[{"n": 1}]{"n": 2}\n[]\n{"data": [{"n": 3}]}', [1, 2, 3]),
        ("a.json", '{\n "n": 1\n}\n{\n "n": 2\n}\n', [1, 2]),
        ("a.json", '{"n": 1}\n\n', [1]),
        ("a.json", '{"info": {"a": 1}, "data": [{"n": 1}, {"n": 2}], "more": "x"}\n', [1, 2]),
        ("a.jsonl", '[\n{"n": 1},\n{"n": 2}\n]\n', [1, 2]),
        ("a.jsonl", '[{"n": 1}, {"n": 2}]\n[{"n": 3}]\n', [1, 2, 3]),
        ("a.jsonl", '{\n "n": 1\n}\n{\n "n": 2\n}\n', [1, 2]),
    ],
)
def test_every_document_of_a_json_file_is_read(tmp_path: Path, name: str, content: str, numbers: list[int]) -> None:
    assert fields_of(read(tmp_path / name, content.encode())) == [{"n": number} for number in numbers]


@pytest.mark.parametrize(
    ("name", "content", "line", "problem"),
    [
        ("a.json", '[{"n": 1}]\n[{"n": 2},\n {"n" 3}]', 3, "Expecting ':' delimiter"),
        ("a.json", '[{"n": 1}]\n[{"n": 2}', 2, ", or ] is missing"),
        ("a.json", '[{"n": 1}\n {"n": 2}]', 2, ", or ] is missing"),
        ("a.json", '{"train": [{"n": 1}],\n "test": [{"n": 2}]}', 2, "two lists of rows, 'train' and 'test'"),
        ("a.json", '{"a": 1,\n b: 2}', 2, "a key is missing"),
        ("a.jsonl", '[\n{"n": 1},\n{"n": 2}\n', 4, ", or ] is missing"),
    ],
)
def test_a_json_file_that_breaks_is_refused_with_the_line(
    tmp_path: Path, name: str, content: str, line: int, problem: str
) -> None:
    with pytest.raises(SourceError, match=rf"{name}, line {line}: .*{problem}"):
        read(tmp_path / name, content.encode())


def test_an_element_that_nests_too_deep_costs_its_row_alone(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.json", b'[{"n": 1}, ' + b"[" * 100_000 + b"]" * 100_000 + b', {"n": 2}]')
    assert isinstance(rows[1], QuarantinedRow)
    assert (rows[1].row, rows[1].reason) == (f"{tmp_path}/a.json:2", "too_deep")
    assert fields_of([rows[0], rows[2]]) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_repeated_key_costs_its_row_alone(tmp_path: Path, name: str) -> None:
    rows = ['{"n": 1}', '{"n": {"a": 2, "a": 3}}', '{"n": 4}']
    text = "\n".join(rows) if name == "a.jsonl" else f"[{','.join(rows)}]"
    first, bad, last = read(tmp_path / name, text.encode())
    assert bad == QuarantinedRow(f"{tmp_path / name}:2", "repeated_key", "an object names a key twice: 'a'")
    assert fields_of([first, last]) == [{"n": 1}, {"n": 4}]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(VALUES, max_size=6), st.integers(1, 9), st.sampled_from([None, 2]))
def test_a_json_list_is_read_alike_in_chunks_of_any_size(
    values: list[Any], chunk_chars: int, indent: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "CHUNK_CHARS", chunk_chars)
        text = json_text.JsonText(io.StringIO(json.dumps(values, indent=indent)), "x.json", BOUNDS)
        assert list(text.rows()) == values
