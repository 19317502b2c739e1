"""The columns that may stand beside a format's own, and what becomes of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tasks.source.conversations import ROLES, read_turns
from tasks.source.example import (
    BadRowError,
    Example,
    inner_field,
    is_filled,
    is_placeholder,
    reference_field,
    text_field,
)
from validations.measure.answers import reference_answer

Row = Mapping[str, Any]
Use = Callable[[Example, Row, str], Example]  # raises BadRowError
DROP = "; to leave it out, name in source.columns what is used (question: …, answer: …)"


def use_companions(example: Example, row: Row, companions: Mapping[str, Use]) -> Example:
    """Return an example with what its row's companion columns add. Raises BadRowError where one cannot be used."""
    for column, use in companions.items():
        if is_filled(row, column):
            example = use(example, row, column)
    return example


def system(example: Example, row: Row, column: str) -> Example:
    """Put the row's system message in front of the history."""
    text = text_field(row, column)
    if example.history and example.history[0]["role"] == "system":
        if example.history[0]["content"].strip() == text.strip():
            return example
        raise BadRowError("two_systems", f"{column!r} is not the system turn that the conversation begins with{DROP}")
    return replace(example, history=({"role": "system", "content": text}, *example.history))


def history(example: Example, row: Row, column: str) -> Example:
    """Put earlier turns before the question: turns, or Alpaca's pairs of question and answer."""
    if any(turn["role"] != "system" for turn in example.history):
        raise BadRowError("unused_column", f"{column!r} holds turns, and so does the conversation{DROP}")
    pairs = row[column]
    if isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        names = ("user", "assistant")
        row = {
            column: [{"role": name, "content": text} for pair in pairs for name, text in zip(names, pair, strict=True)]
        }
    return replace(example, history=(*example.history, *read_turns(row, column)))


def tools(example: Example, row: Row, column: str) -> Example:
    """Give the tools to the chat template: JSON schemas, in a list or in JSON text."""
    found = row[column]
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except (ValueError, RecursionError) as error:
            raise BadRowError("wrong_type", f"{column!r} is no JSON: {error}"[:300]) from error
    if found is None:  # JSON's null
        return example
    if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
        raise BadRowError("wrong_type", f"{column!r} is no list of JSON schemas{DROP}")
    return replace(example, tools=tuple(found))


def context(example: Example, row: Row, column: str) -> Example:
    """Put a passage before the question, unless that holds it already."""
    texts = row[column] if isinstance(row[column], list) else [row[column]]
    if not all(isinstance(text, str) for text in texts):
        raise BadRowError("wrong_type", f"{column!r} is no text, nor a list of texts{DROP}")
    passage = "\n\n".join(texts).strip()
    if passage in example.question or any(passage in turn["content"] for turn in example.history):
        return example
    return replace(example, question=f"{passage}\n\n{example.question}")


def spoken(example: Example, row: Row, column: str) -> Example:
    """Refuse a passage that no turn holds: where in a conversation it belongs, nobody knows."""
    if context(example, row, column).question != example.question:
        raise BadRowError("unused_column", f"{column!r} holds a passage that no turn holds{DROP}")
    return example


def choices(example: Example, row: Row, column: str) -> Example:
    """Refuse choices that the question does not hold, nor a turn before it."""
    found = inner_field(row, f"{column}.text") or row[column]
    told = "\n".join([*(turn["content"] for turn in example.history), example.question])
    if not isinstance(found, list) or not all(isinstance(text, str) and text in told for text in found):
        raise BadRowError("unused_column", f"{column!r} holds choices that the question does not{DROP}")
    return example


def reference(example: Example, row: Row, column: str) -> Example:
    """Take the answer of a row whose conversation ends with the question."""
    if example.answer is not None or is_placeholder(str(row[column])):
        return example
    answer = reference_field(row, column)
    return replace(example, answer=answer, final_answer=reference_answer(answer, is_solution=column == "solution"))


def verdict(example: Example, row: Row, column: str) -> Example:
    """Drop the answer that KTO's label calls undesirable."""
    if not isinstance(row[column], bool):
        found = type(row[column]).__name__
        raise BadRowError("wrong_type", f"{column!r} is a {found}, where true or false is needed{DROP}")
    return example if row[column] else replace(example, answer=None, solution=None, final_answer=None)


def role(example: Example, row: Row, column: str) -> Example:
    """Refuse a message that is no user's."""
    if ROLES.get(text_field(row, column)) != "user":
        raise BadRowError("no_user_turn", f"{column!r} is {row[column]!r}: the text is no question")
    return example


def parent(example: Example, row: Row, column: str) -> Example:
    """Refuse a message whose earlier turns are other rows."""
    raise BadRowError(
        "no_user_turn", f"{column!r} is filled: the turns before it are other rows; join them to `messages`"
    )


def refused(example: Example, row: Row, column: str) -> Example:
    """Refuse what no prompt can show."""
    raise BadRowError("unused_column", f"{column!r} is filled, which no text prompt can show{DROP}")


def _named(use: Use, *columns: str) -> dict[str, Use]:
    return dict.fromkeys(columns, use)


# Known in every format; each adapter adds those of its own. In this order: the system message comes first of all turns.
ANY = {
    **_named(history, "history"),
    **_named(system, "system", "system_prompt", "system_message"),
    **_named(tools, "tools", "functions"),
    **_named(refused, "image", "images", "image_url", "image_path", "video", "videos", "audio", "audios", "tool_calls"),
}
_PASSAGES = ("context", "contexts", "passage", "passages", "paragraph", "document", "documents", "article")
_CHOICES = ("choices", "options")
MERGED = frozenset((*_PASSAGES, *_CHOICES))  # they stand in the question
CHOSEN = {**_named(context, *_PASSAGES), **ANY}
ASKED = {**CHOSEN, **_named(choices, *_CHOICES)}
SPOKEN = {
    **_named(spoken, *_PASSAGES),
    **_named(choices, *_CHOICES),
    **_named(reference, "ground_truth", "answer", "solution"),
    **ANY,
}
OPEN = {**_named(reference, "ground_truth", "answer", "solution"), **ASKED}
JUDGED = {**_named(verdict, "label"), **ASKED}
FLAT = {**_named(role, "role"), **_named(parent, "parent_id"), **ANY}
