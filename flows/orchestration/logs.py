"""Where a run's log lines go: ours to Prefect's pages, Prefect's out of the terminal."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import prefect
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler

PREFECT = f"{Path(prefect.__file__).parent}{os.sep}"


def log_to_prefect() -> None:
    """Show our own log on Prefect's pages, each line with the task run that it comes from."""
    for name in ("flows", "tasks", "sampling"):
        ours = logging.getLogger(name)
        ours.setLevel(logging.INFO)
        if not any(isinstance(handler, APILogHandler) for handler in ours.handlers):
            ours.addHandler(APILogHandler())


def silence_prefect() -> None:
    """Keep Prefect's log, which holds tracebacks, out of the terminal; its server still gets it."""
    if "PREFECT_LOGGING_LEVEL" in os.environ:
        return  # somebody wants to see it
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler):
            handler.addFilter(_is_not_prefect)


def _is_not_prefect(record: logging.LogRecord) -> bool:
    """By the file that speaks: what Prefect says as it ends comes from loggers of other names, such as EventsWorker."""
    return not record.pathname.startswith(PREFECT)
