"""The way that a child process ended, in words."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from sampling.errors import EngineDiedError

READ_BYTES = 100_000  # of a log's end
NUM_LINES, LINE_CHARACTERS = 3, 300  # of it, in a message
# e.g. "(EngineCore pid=7) ERROR 11-21 12:42:19 [core.py:1] ValueError: …"; a warning may name an error, too
CAUSE = re.compile(r"(\([^)]*\) )?(ERROR [^]]*\] )?[\w.]+(Error|Exception): ")


def exit_error(who: str, code: int, log: Path, log_start: int, address: str | None = None) -> EngineDiedError:
    """Return the error for a process that ended with `code`: −n, or 128 + n from a shell or a guard, for signal n.

    `log_start`: where its part of the log begins, bytes. `address`: where a reader finds the log, if not there.
    """
    with open(log, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(log_start, size - READ_BYTES))
        text = file.read().decode(errors="replace")
    return EngineDiedError(f"{who} ended {describe_exit(code)}; {address or log} ends: {log_end(text)}")


def describe_exit(code: int) -> str:
    """Return how a process ended: `by SIGTERM`, `with exit code 3`. `code` as `exit_error` takes it."""
    number = -code if code < 0 else code - 128
    name = next((known.name for known in signal.Signals if known == number), None)
    if number == signal.SIGKILL:
        return f"by {name} (often the kernel, out of memory)"
    return f"by {name}" if name else f"with exit code {code}"


def log_end(text: str) -> str:
    """Return a log's last lines; before them the first that names an error, for vLLM's last may say 'see above'."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines[:-NUM_LINES] if CAUSE.match(line)]
    return " | ".join(line[:LINE_CHARACTERS] for line in [*causes[:1], *lines[-NUM_LINES:]]) or "(nothing)"
