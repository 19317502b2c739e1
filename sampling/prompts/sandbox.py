"""The Jinja sandbox that prompt templates are rendered in.

Templates have access to a row's fields, but not to Python, files or global functions. Their time, their memory and the
length of what they render are bounded by the process that renders (`sampling.prompts.renderer`).
"""

from __future__ import annotations

from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Null(jinja2.StrictUndefined):
    """A null field: false in `{% if %}`, undefined for `default`, an error where it is printed."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]  # the parent raises
        return False


def _refuse_null(value: Any) -> Any:
    """Raise UndefinedError for a null inside a field, which would print as "None"."""
    if value is None:
        raise jinja2.UndefinedError("a null is printed")
    return value


SANDBOX = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, finalize=_refuse_null, keep_trailing_newline=True
)
SANDBOX.globals.clear()  # range, lipsum, cycler…: loops run over a row's fields
