"""The routing of a run's log lines: its own to Prefect's pages, Prefect's out of the terminal."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import prefect
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler

PREFECT = f"{Path(prefect.__file__).parent}{os.sep}"

logger = logging.getLogger(__name__)


def log_to_prefect() -> None:
    """Send the log of this repository's packages to Prefect's pages, each line with its task run.

    PREFECT_LOGGING_EXTRA_LOGGERS would do it, but Prefect reads that when it is imported: in a worker's process before
    any of our modules.
    """
    for name in ("flows", "tasks", "sampling"):
        ours = logging.getLogger(name)
        ours.setLevel(logging.INFO)
        if not any(isinstance(handler, APILogHandler) for handler in ours.handlers):
            ours.addHandler(APILogHandler())


def silence_prefect() -> None:
    """Keep Prefect's log, which holds tracebacks, out of the terminal; its server still gets it.

    PREFECT_LOGGING_LEVEL, where it is set, turns this off.
    """
    if "PREFECT_LOGGING_LEVEL" not in os.environ:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.addFilter(_is_not_prefect)


def _is_not_prefect(record: logging.LogRecord) -> bool:
    """Judge by the source file: at exit Prefect logs by loggers of other names, too, such as EventsWorker."""
    return not record.pathname.startswith(PREFECT)


@contextmanager
def warn_on_error(text: str, *args: object) -> Iterator[None]:
    """Log an exception of the block as a warning, with its traceback, and go on: for what must not fail a run."""
    try:
        yield
    except Exception:
        logger.warning(text, *args, exc_info=True)
