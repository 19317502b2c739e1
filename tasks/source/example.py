"""The common schema that rows of every dataset format are converted to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sampling.errors import RowError
from validations.measure.answers import NO_ANSWERS

if TYPE_CHECKING:
    from sampling.prompts.templates import Message

REFERENCE_FIELDS = frozenset({"answer", "solution", "final_answer"})  # of an Example; only the teacher may see them


class BadRowError(RowError):
    """A row that its adapter cannot convert."""

    def __init__(self, reason: str, detail: str) -> None:
        """`reason` is the snake_case category it is counted under, `detail` names the field and what it held."""
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Example:
    """One row in the common schema."""

    question: str  # in a conversation: the last user turn before the reference
    answer: str | None = None  # the reference in full
    solution: str | None = None  # the worked solution, if the source stores it separately
    final_answer: str | None = None  # what a grader compares
    history: tuple[Message, ...] = ()  # the turns before the question, oldest first; a system turn only in front
    tools: tuple[dict[str, Any], ...] = ()  # JSON schemas of the functions that both models may call


def template_fields(row: Mapping[str, Any], example: Example) -> dict[str, Any]:
    """Return a template's variables: the source's columns, overridden by the example's fields that are not None.

    A column of that name that only says that there is none (`N/A`) is None.
    """
    fields = {identifier(column): value for column, value in row.items()}
    for name in ("question", "answer", "solution", "final_answer"):
        if (value := getattr(example, name)) is not None:
            fields[name] = value
        elif isinstance(fields.get(name), str) and is_placeholder(fields[name]):
            fields[name] = None
    return fields | {"history": list(example.history)}


def identifier(column: str) -> str:
    """Convert a column's name to a template variable: "Final Answer" becomes `Final_Answer`."""
    return re.sub(r"\W|^(?=\d)", "_", column)


def text_field(row: Mapping[str, Any], column: str) -> str:
    """Return a field that must hold text. Raises BadRowError."""
    value = present_field(row, column)
    if not isinstance(value, str):
        paths = [f"{column}.{key}" for key in value] if isinstance(value, Mapping) else []
        inside = f"; name one inside it: {listed(paths)}" if paths else ""
        raise BadRowError("wrong_type", f"{column!r} is a {type(value).__name__}, where text is needed{inside}")
    if not value.strip():
        raise BadRowError("empty_field", f"{column!r} is empty")
    return value


def reference_field(row: Mapping[str, Any], column: str) -> str:
    """Return a field that must hold text or a number, as text; NaN and "N/A" are none. Raises BadRowError."""
    value = present_field(row, column)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        text = format(value, "f") if isinstance(value, Decimal) else str(value)
    else:
        text = text_field(row, column)
    if is_placeholder(text):
        raise BadRowError("null_field", f"{column!r} is {text.strip()!r}, which is no answer")
    return text


def is_placeholder(text: str) -> bool:
    """Return whether a reference says that there is none: NaN, null, N/A, proof, notfound."""
    return text.strip().casefold() in NO_ANSWERS


def listed(names: Iterable[str]) -> str:
    """Join names for a message; names with unprintable characters are escaped."""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names) or "none"


def is_filled(row: Mapping[str, Any], column: str) -> bool:
    """Return whether an optional field, or one inside a column, is present, not null, not blank, no empty list."""
    value = inner_field(row, column)
    return value is not None and bool(value.strip() if isinstance(value, str) else value or not _is_sized(value))


def _is_sized(value: Any) -> bool:
    return isinstance(value, list | tuple | dict)


def present_field(row: Mapping[str, Any], column: str) -> Any:
    """Return a field that must be present and not null; `a.b.0` is inside column `a`. Raises BadRowError."""
    value = inner_field(row, column)
    if value is None:
        if column not in row and column.partition(".")[0] not in row:
            raise BadRowError("missing_field", f"{column!r} is missing; there are: {listed(row)}")
        raise BadRowError("null_field", f"{column!r} is null")
    return value


def inner_field(row: Mapping[str, Any], path: str) -> Any:
    """Return the value of a column, or of a path such as `reward_model.ground_truth` or `choices.0`; None if absent."""
    if path in row:
        return row[path]
    value: Any = row
    for key in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal():
            value = value[int(key)] if int(key) < len(value) else None
        else:
            return None
    return value
