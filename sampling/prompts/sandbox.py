"""The Jinja sandbox that prompt templates are rendered in.

Templates see a row's fields, nothing of Python, no file, no global function. What makes much text of little
is left out too; a template that nests loops over a row's own text can still take long, which only its author
feels.
"""

from __future__ import annotations

from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Filters and text methods that pad to a width given as a number; the rest of Jinja grows with the row alone.
PADDING = {
    "batch",
    "center",
    "expandtabs",
    "format",
    "format_map",
    "indent",
    "ljust",
    "rjust",
    "slice",
    "zfill",
}


class Null(jinja2.StrictUndefined):
    """A null field: false in `{% if %}`, absent in `default`, an error where it is printed."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]  # the parent raises
        return False


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's own sandbox, stricter: bounded text, no nulls printed, no field misspelt."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        """Build the one environment that every template shares."""
        super().__init__(undefined=jinja2.StrictUndefined, finalize=_refuse_null, keep_trailing_newline=True)
        self.globals.clear()  # range, lipsum, cycler…: loops run over a row's fields alone
        self.filters = {name: value for name, value in self.filters.items() if name not in PADDING}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Numbers multiply; text does not, and powers are nobody's prompt."""
        if operator == "**" or not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise SecurityError(f"{type(left).__name__} {operator} {type(right).__name__} is not for templates")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse the padding methods of text on top of what the sandbox refuses."""
        return attr not in PADDING and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No `str.format` either: it pads."""


def _refuse_null(value: Any) -> Any:
    """A null deeper in a field would put the word "None" into a prompt."""
    if value is None:
        raise jinja2.UndefinedError("a null is printed")
    return value


SANDBOX = Sandbox()
