"""Tests of required fields and of a template's variables."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.source.example import (
    BadRowError,
    Example,
    identifier,
    is_filled,
    reference_field,
    template_fields,
    text_field,
)


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"other": "x", "more": 1}, "missing_field", "'text' is missing; there are: other, more"),
        ({"text": None}, "null_field", "'text' is null"),
        ({"text": ""}, "empty_field", "'text' is empty"),
        ({"text": " \n"}, "empty_field", "'text' is empty"),
        ({"text": ["x"]}, "wrong_type", "'text' is a list, where text is needed"),
        ({"text": {"a": 1}}, "wrong_type", "'text' is a dict, where text is needed; name one inside it: text.a"),
        ({"text": True}, "wrong_type", "'text' is a bool, where text is needed"),
    ],
)
def test_a_required_field_that_is_missing_null_blank_or_no_text(row: dict[str, Any], reason: str, detail: str) -> None:
    for read in (text_field, reference_field):
        with pytest.raises(BadRowError) as caught:
            read(row, "text")
        assert (caught.value.reason, str(caught.value)) == (reason, detail)
    assert is_filled(row, "text") == (reason == "wrong_type")


def test_a_number_may_be_a_reference_but_no_question() -> None:
    assert reference_field({"answer": 72}, "answer") == "72"
    assert reference_field({"answer": 0.5}, "answer") == "0.5"
    with pytest.raises(BadRowError, match="is a int"):
        text_field({"question": 72}, "question")


def test_columns_and_shared_fields_over_them() -> None:
    row = {"problem": "1+1?", "Final Answer": "2", "answer": None, "question": "a column of another meaning"}
    history = ({"role": "user", "content": "hi"},)
    assert template_fields(row, Example("1+1?", answer="2", history=history)) == {
        "problem": "1+1?",
        "Final_Answer": "2",
        "question": "1+1?",
        "answer": "2",
        "history": [{"role": "user", "content": "hi"}],
    }


@pytest.mark.parametrize(
    ("column", "name"), [("a b", "a_b"), ("1st", "_1st"), ("ärzte-zahl", "ärzte_zahl"), ("x", "x")]
)
def test_identifier(column: str, name: str) -> None:
    assert identifier(column) == name
