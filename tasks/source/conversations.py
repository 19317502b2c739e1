"""A converter from ShareGPT (`from`, `value`) and OpenAI (`role`, `content`) turns to an `Example`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sampling.prompts.templates import Message
from tasks.source.example import BadRowError, Example, present_field

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
}


def read_conversation(row: Mapping[str, Any], *columns: str) -> Example:
    """Convert the concatenated turns of `columns` to an example. Raises BadRowError.

    The last assistant turn is the reference, the user turn before it the question; later turns are dropped. Without an
    assistant turn, the last turn is the question, without a reference.
    """
    turns = [turn for column in columns for turn in _read_turns(row, column)]
    replies = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    prompt = turns[: replies[-1]] if replies else turns
    answer = turns[replies[-1]]["content"] if replies else None
    name = columns[0]
    if not turns:
        raise BadRowError("empty_field", f"{name!r} holds no turn")
    if not prompt or prompt[-1]["role"] != "user":
        raise BadRowError("no_user_turn", f"{name!r} has no user turn right before its last assistant turn")
    question = prompt[-1]["content"]
    if not question.strip() or not (answer is None or answer.strip()):
        raise BadRowError("empty_field", f"the last user or assistant turn of {name!r} is empty")
    return Example(question, answer, history=tuple(prompt[:-1]))


def _read_turns(row: Mapping[str, Any], column: str) -> list[Message]:
    """Read turns in OpenAI's format (role, content) or ShareGPT's (from, value)."""
    turns = present_field(row, column)
    if not isinstance(turns, list):
        raise BadRowError("wrong_type", f"{column!r} is a {type(turns).__name__}, where a list of turns is needed")
    return [_read_turn(turn, f"{column}[{i}]") for i, turn in enumerate(turns)]


def _read_turn(turn: Any, location: str) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRowError("wrong_type", f"{location} is a {type(turn).__name__}, where a turn is an object")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if content is None:
        raise BadRowError("null_field", f"{location} has no content")
    if not isinstance(content, str):
        raise BadRowError("wrong_type", f"{location}: the content is a {type(content).__name__}, where text is needed")
    if not isinstance(role, str) or role not in ROLES:
        raise BadRowError("unknown_role", f"{location}: the role is {role!r}; known: {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": content}
