"""Processes of ours: what they inherit, how their errors reach who started them."""

from __future__ import annotations

import os
import sys

from pydantic import ValidationError

from sampling import errors
from sampling.errors import DualSamplingError, EngineError

MAX_CHARACTERS = 300  # of another library's message
Message = dict[str, str]  # "error": a class of sampling.errors; "text"


def environment(**more: str) -> dict[str, str]:
    """The environment of a Python process that imports what this one could.

    To be started with -P: a folder named sampling/, tasks/ or flows/ in the current directory must not shadow ours.
    """
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {**os.environ, **more, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}


def as_message(error: BaseException) -> Message:
    """An error as one of ours: itself, or an EngineError that names its class."""
    if isinstance(error, DualSamplingError):
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": EngineError.__name__, "text": f"{type(error).__name__}: {first_line(error)}"}


def from_message(message: Message, where: str = "") -> DualSamplingError:
    """The error that `as_message` told of; `where` follows one that only says that the engine is broken."""
    kind: type[DualSamplingError] = getattr(errors, message["error"])
    return kind(message["text"] + where if kind is EngineError else message["text"])


def first_line(error: BaseException) -> str:
    """The first line of an error's text, all of them where it only leads to the others; cut to 300 characters."""
    if isinstance(error, ValidationError):  # its own first line only counts them
        return error.errors()[0]["msg"][:MAX_CHARACTERS]
    lines = [line.strip() for line in str(error).strip().splitlines()]
    said = " ".join(lines) if lines and lines[0].endswith(":") else "".join(lines[:1])
    return (said or type(error).__name__)[:MAX_CHARACTERS]
