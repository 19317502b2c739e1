"""A converter from ShareGPT (`from`, `value`) and OpenAI (`role`, `content`) turns to an `Example`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sampling.prompts.templates import Message
from tasks.source.example import BadRowError, Example, present_field

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
}
CALLS = ("tool_calls", "function_call")  # of a turn: what it does cannot be asked, nor is it an answer
REASONING = ("reasoning_content", "reasoning", "thinking")  # of a turn, apart from its content


def read_conversation(row: Mapping[str, Any], *columns: str) -> Example:
    """Convert the concatenated turns of `columns` to an example. Raises BadRowError.

    The last user turn is the question, the turns before it are its history; an assistant turn after it is the
    reference, whose reasoning is the solution.
    """
    raw = [turn for column in columns for turn in _read_list(row, column)]
    turns = [_read_turn(turn, location) for location, turn in raw]
    name = columns[0]
    if not turns:
        raise BadRowError("empty_field", f"{name!r} holds no turn")
    reply = turns.pop() if turns[-1]["role"] == "assistant" else None
    if not turns or turns[-1]["role"] != "user":
        raise BadRowError(
            "no_user_turn", f"{name!r} has no user turn at its end, or right before its last assistant turn"
        )
    question = turns.pop()["content"]
    answer = None if reply is None else reply["content"]
    if not question.strip() or not (answer is None or answer.strip()):
        raise BadRowError("empty_field", f"the last user or assistant turn of {name!r} is empty")
    solution = None if reply is None else next((raw[-1][1][key] for key in REASONING if raw[-1][1].get(key)), None)
    return Example(question, answer, solution if isinstance(solution, str) else None, history=tuple(turns))


def read_turns(row: Mapping[str, Any], column: str) -> list[Message]:
    """Read turns in OpenAI's format (role, content) or ShareGPT's (from, value). Raises BadRowError."""
    return [_read_turn(turn, location) for location, turn in _read_list(row, column)]


def _read_list(row: Mapping[str, Any], column: str) -> list[tuple[str, Any]]:
    """Return each turn of a list with where it stands."""
    turns = present_field(row, column)
    if not isinstance(turns, list):
        raise BadRowError("wrong_type", f"{column!r} is a {type(turns).__name__}, where a list of turns is needed")
    return [(f"{column}[{i}]", turn) for i, turn in enumerate(turns)]


def _read_turn(turn: Any, location: str) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRowError("wrong_type", f"{location} is a {type(turn).__name__}, where a turn is an object")
    role = turn.get("role", turn.get("from"))
    if call := next((key for key in CALLS if turn.get(key)), None):
        raise BadRowError(
            "tool_call", f"{location} has {call}: a turn that calls a tool can be neither asked nor compared"
        )
    content = _text(turn.get("content", turn.get("value")), location)
    if not isinstance(role, str) or role not in ROLES:
        raise BadRowError("unknown_role", f"{location}: the role is {role!r}; known: {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": content}


def _text(content: Any, location: str) -> str:
    """Return a turn's text; parts of type text are joined, others refuse the row."""
    if content is None:
        raise BadRowError("null_field", f"{location} has no content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRowError("wrong_type", f"{location}: the content is a {type(content).__name__}, where text is needed")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise BadRowError(
                "wrong_type", f"{location}: a part of the content is of type {kind!r}; only text can be asked"
            )
        texts.append(text)
    return "".join(texts)
