"""A row in the words that every format shares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sampling.errors import RowError
from sampling.prompts.templates import Message

REFERENCE_FIELDS = frozenset({"answer", "solution", "final_answer"})  # of an Example; the teacher's alone


class BadRowError(RowError):
    """A row that its adapter cannot use, with the word it is counted under."""

    def __init__(self, reason: str, detail: str) -> None:
        """`reason` is a snake_case word, `detail` says which field and what it held."""
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Example:
    """One row, as templates see it."""

    question: str  # of a conversation: the user's last turn before the reference
    answer: str | None = None  # the reference in full
    solution: str | None = None  # the way to the answer, where the source keeps it apart
    final_answer: str | None = None  # what a grader compares
    history: tuple[Message, ...] = ()  # the turns before the question, oldest first


def template_fields(row: Mapping[str, Any], example: Example) -> dict[str, Any]:
    """What a template may name: the source's columns, and over them the example's fields that are filled."""
    fields = {identifier(column): value for column, value in row.items()}
    shared = {
        "question": example.question,
        "answer": example.answer,
        "solution": example.solution,
        "final_answer": example.final_answer,
        "history": list(example.history),
    }
    return fields | {name: value for name, value in shared.items() if value is not None}


def identifier(column: str) -> str:
    """A column's name as a template spells it: "Final Answer" is `Final_Answer`."""
    return re.sub(r"\W|^(?=\d)", "_", column)


def text_field(row: Mapping[str, Any], column: str) -> str:
    """A field that must hold text. Raises BadRowError."""
    value = present_field(row, column)
    if not isinstance(value, str):
        raise BadRowError("wrong_type", f"{column!r} is a {type(value).__name__}, where text is needed")
    if not value.strip():
        raise BadRowError("empty_field", f"{column!r} is empty")
    return value


def reference_field(row: Mapping[str, Any], column: str) -> str:
    """A field that must hold text or a number, as text. Raises BadRowError."""
    value = present_field(row, column)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text_field(row, column)


def listed(names: Iterable[str]) -> str:
    """Names for a message; those that a terminal would act on are escaped."""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names) or "none"


def is_filled(row: Mapping[str, Any], column: str) -> bool:
    """Whether an optional field holds something: present, not null, not blank."""
    value = row.get(column)
    return value is not None and not (isinstance(value, str) and not value.strip())


def present_field(row: Mapping[str, Any], column: str) -> Any:
    """A field that is there and not null. Raises BadRowError."""
    if column not in row:
        raise BadRowError("missing_field", f"{column!r} is missing; there are: {listed(row)}")
    if row[column] is None:
        raise BadRowError("null_field", f"{column!r} is null")
    return row[column]
