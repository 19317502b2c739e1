"""A list of turns as an example: history, question, reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sampling.prompts.templates import Message
from tasks.source.example import BadRowError, Example, present_field

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


def read_conversation(row: Mapping[str, Any], *columns: str) -> Example:
    """The example of the turns that `columns` hold, one column after the other. Raises BadRowError.

    The last assistant turn is the reference, the user's turn before it the question; what follows is dropped.
    Without an assistant turn the last turn is the question, and there is no reference.
    """
    turns = [turn for column in columns for turn in _read_turns(row, column)]
    replies = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    asked = turns[: replies[-1]] if replies else turns
    answer = turns[replies[-1]]["content"] if replies else None
    name = columns[0]
    if not turns:
        raise BadRowError("empty_field", f"{name!r} holds no turn")
    if not asked or asked[-1]["role"] != "user":
        raise BadRowError("no_user_turn", f"{name!r} has no user turn right before its last assistant turn")
    question = asked[-1]["content"]
    if not question.strip() or not (answer is None or answer.strip()):
        raise BadRowError("empty_field", f"the last user or assistant turn of {name!r} is empty")
    return Example(question, answer, history=tuple(asked[:-1]))


def _read_turns(row: Mapping[str, Any], column: str) -> list[Message]:
    """Turns in OpenAI's (role, content) or ShareGPT's (from, value) spelling."""
    turns = present_field(row, column)
    if not isinstance(turns, list):
        raise BadRowError("wrong_type", f"{column!r} is a {type(turns).__name__}, where a list of turns is needed")
    return [_read_turn(turn, f"{column}[{i}]") for i, turn in enumerate(turns)]


def _read_turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRowError("wrong_type", f"{where} is a {type(turn).__name__}, where a turn is an object")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if content is None:
        raise BadRowError("null_field", f"{where} has no content")
    if not isinstance(content, str):
        raise BadRowError("wrong_type", f"{where}: the content is a {type(content).__name__}, where text is needed")
    if not isinstance(role, str) or role not in ROLES:
        raise BadRowError("unknown_role", f"{where}: the role is {role!r}; known: {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": content}
