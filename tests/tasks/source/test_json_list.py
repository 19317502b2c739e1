"""Tests of the incremental JSON list parser."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling.errors import SourceError
from tasks.source import json_list
from tasks.source.json_list import list_items

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(VALUES, max_size=6), st.integers(1, 9), st.sampled_from([None, 2]))
def test_equals_json_for_every_chunk_size(values: list[object], chunk_chars: int, indent: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_list, "CHUNK_CHARS", chunk_chars)
        assert list(list_items(io.StringIO("[" + json.dumps(values, indent=indent)[1:]), "x.json")) == values


@pytest.mark.parametrize("text", ['[{"a": 1}, {"a": 2', '[{"a": 1}, {"a" 2}]', '[{"a": 1}, ', '[{"a": 1}, nonsense]'])
def test_broken_text_names_the_element(text: str) -> None:
    items = list_items(io.StringIO(text), "x.json")
    assert next(items) == {"a": 1}
    with pytest.raises(SourceError, match=r"x\.json: element 2 of the list is not JSON, or the file is cut off"):
        next(items)


def test_a_broken_file_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_list, "CHUNK_CHARS", 64)
    monkeypatch.setattr(json_list, "MAX_ITEM_CHARS", 1024)
    file = io.StringIO('["' + "x" * 100_000)
    with pytest.raises(SourceError, match="element 1"):
        next(list_items(file, "x.json"))
    assert file.tell() < 4096
