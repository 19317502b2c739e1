"""The Jinja sandbox that prompt templates are rendered in.

Templates have access to a row's fields, but not to Python, files or global functions. Operations that make long text
from short text are removed; a template that nests loops over a row's text can still be slow.
"""

from __future__ import annotations

from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Filters and text methods that pad to a width given as a number; the output of all others is bounded by the row.
PADDING = {"batch", "center", "expandtabs", "format", "format_map", "indent", "ljust", "rjust", "slice", "zfill"}


class Null(jinja2.StrictUndefined):
    """A null field: false in `{% if %}`, undefined for `default`, an error where it is printed."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]  # the parent raises
        return False


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with bounded text; printed nulls and unknown fields are errors."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        """Build the environment that every template shares."""
        super().__init__(undefined=jinja2.StrictUndefined, finalize=_refuse_null, keep_trailing_newline=True)
        self.globals.clear()  # range, lipsum, cycler…: loops may only run over a row's fields
        self.filters = {name: value for name, value in self.filters.items() if name not in PADDING}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Allow `*` and `%` on numbers alone, `**` on nothing."""
        if operator == "**" or not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise SecurityError(f"{type(left).__name__} {operator} {type(right).__name__} is not for templates")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse text methods that pad, too."""
        return attr not in PADDING and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Disable `str.format`, which pads."""


def _refuse_null(value: Any) -> Any:
    """Raise UndefinedError for a null inside a field, which would print as "None"."""
    if value is None:
        raise jinja2.UndefinedError("a null is printed")
    return value


SANDBOX = Sandbox()
