"""Errors that travel from a child process to its parent."""

from __future__ import annotations

from pydantic import ValidationError

from sampling import errors
from sampling.errors import DualSamplingError, EngineError

MAX_CHARACTERS = 300  # of another library's message
Message = dict[str, str]  # "error": a class of sampling.errors; "text"


def as_message(error: BaseException) -> Message:
    """Return an error as one of this project's: itself, or an EngineError that names its class."""
    if isinstance(error, DualSamplingError):
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": EngineError.__name__, "text": f"{type(error).__name__}: {first_line(error)}"}


def from_message(message: Message, where: str = "") -> DualSamplingError:
    """Return the error of a message; `where` follows one that only says that the engine is broken."""
    kind: type[DualSamplingError] = getattr(errors, message["error"])
    return kind(message["text"] + where if kind is EngineError else message["text"])


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, all of them where it only introduces the others; 300 characters."""
    if isinstance(error, ValidationError):  # its own first line only counts them
        return error.errors()[0]["msg"][:MAX_CHARACTERS]
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = " ".join(lines) if lines and lines[0].endswith(":") else "".join(lines[:1])
    return (text or type(error).__name__)[:MAX_CHARACTERS]
