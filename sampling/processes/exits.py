"""How a process of ours ended, in words."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from sampling.errors import EngineDiedError

READ_BYTES = 100_000  # of a log's end
SHOWN_LINES, SHOWN_CHARACTERS = 3, 300
# e.g. "(EngineCore pid=7) ERROR 11-21 12:42:19 [core.py:1] ValueError: …"; a warning may name an error, too
CAUSE = re.compile(r"(\([^)]*\) )?(ERROR [^]]*\] )?[\w.]+(Error|Exception): ")


def death(who: str, code: int, log: Path, log_start: int, shown_log: str | None = None) -> EngineDiedError:
    """The error for a process that ended with `code`: −n, or 128 + n where a shell or a guard says so, for signal n.

    `log_start`: where its part of the log begins, bytes. `shown_log`: where its reader finds it, if not there.
    """
    with open(log, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(log_start, size - READ_BYTES))
        text = file.read().decode(errors="replace")
    return EngineDiedError(f"{who} ended {ended(code)}; {shown_log or log} ends: {log_end(text)}")


def ended(code: int) -> str:
    """How a process ended: `by SIGTERM`, `with exit code 3`. `code` as `death` takes it."""
    number = -code if code < 0 else code - 128
    name = next((known.name for known in signal.Signals if known == number), None)
    if number == signal.SIGKILL:
        return f"by {name} (often the kernel, out of memory)"
    return f"by {name}" if name else f"with exit code {code}"


def log_end(text: str) -> str:
    """A log's last lines; before them the first that names an error: vLLM's last one may say 'see above'."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines[:-SHOWN_LINES] if CAUSE.match(line)]
    return " | ".join(line[:SHOWN_CHARACTERS] for line in [*causes[:1], *lines[-SHOWN_LINES:]]) or "(nothing)"
