"""Tests of the conversion of chat turns to examples."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.source.conversations import read_conversation
from tasks.source.example import BadRowError, Example

SYSTEM, USER, REPLY = ({"role": role, "content": role[0]} for role in ("system", "user", "assistant"))


@pytest.mark.parametrize(
    ("turns", "example"),
    [
        ([USER, REPLY], Example("u", "a")),
        ([SYSTEM, USER, REPLY], Example("u", "a", history=(SYSTEM,))),
        ([SYSTEM, USER, REPLY, USER, REPLY], Example("u", "a", history=(SYSTEM, USER, REPLY))),
        ([USER, REPLY, USER], Example("u", history=(USER, REPLY))),
        ([USER, REPLY | {"reasoning_content": "r"}], Example("u", "a", "r")),
        (
            [USER | {"role": "prompter"}, REPLY | {"tool_calls": [], "content": [{"type": "text", "text": "a"}]}],
            Example("u", "a"),
        ),
        ([USER | {"content": [{"type": "text", "text": "u"}, "v"]}], Example("uv")),
        ([REPLY, USER, REPLY], Example("u", "a", history=(REPLY,))),
        ([SYSTEM, USER], Example("u", None, history=(SYSTEM,))),
        ([{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}], Example("u", "a")),
    ],
)
def test_the_last_user_turn_is_asked_and_a_reply_after_it_the_reference(
    turns: list[dict[str, str]], example: Example
) -> None:
    assert read_conversation({"messages": turns}, "messages") == example


def test_turns_of_two_columns_follow_each_other() -> None:
    row = {"prompt": [SYSTEM, USER], "completion": [REPLY]}
    assert read_conversation(row, "prompt", "completion") == Example("u", "a", history=(SYSTEM,))


@pytest.mark.parametrize(
    ("turns", "reason", "detail"),
    [
        (None, "null_field", "'messages' is null"),
        ("hi", "wrong_type", "'messages' is a str, where a list of turns is needed"),
        ([], "empty_field", "'messages' holds no turn"),
        (["hi"], "wrong_type", r"messages\[0\] is a str"),
        ([USER, {"role": "tool", "content": "x"}, REPLY], "unknown_role", r"messages\[1\]: the role is 'tool'"),
        ([{"role": ["user"], "content": "x"}], "unknown_role", r"the role is \['user'\]"),
        ([USER, {"role": "assistant", "content": None}], "null_field", r"messages\[1\] has no content"),
        ([{"role": "user", "content": {"text": "x"}}], "wrong_type", "the content is a dict"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            "wrong_type",
            "a part of the content is of type 'image_url'",
        ),
        ([USER, REPLY | {"tool_calls": [{"x": 1}]}], "tool_call", r"messages\[1\] has tool_calls"),
        ([USER, REPLY | {"function_call": {"x": 1}}, USER, REPLY], "tool_call", r"messages\[1\] has function_call"),
        ([REPLY], "no_user_turn", "right before its last assistant turn"),
        ([USER, REPLY, REPLY], "no_user_turn", "right before its last assistant turn"),
        ([SYSTEM], "no_user_turn", "right before its last assistant turn"),
        ([{"role": "user", "content": " "}, REPLY], "empty_field", "is empty"),
        ([USER, {"role": "assistant", "content": ""}], "empty_field", "is empty"),
    ],
)
def test_broken_turns(turns: Any, reason: str, detail: str) -> None:
    with pytest.raises(BadRowError, match=detail) as caught:
        read_conversation({"messages": turns}, "messages")
    assert caught.value.reason == reason


def test_a_missing_column() -> None:
    with pytest.raises(BadRowError, match="'messages' is missing; there are: id"):
        read_conversation({"id": 1}, "messages")
