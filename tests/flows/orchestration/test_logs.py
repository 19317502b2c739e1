"""Tests of the terminal's log: Prefect's lines are hidden unless PREFECT_LOGGING_LEVEL is set."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from prefect._internal.concurrency import services
from prefect.logging.handlers import PrefectConsoleHandler

from flows.orchestration.logs import silence_prefect


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """The output of a console handler of Prefect's."""
    stream = io.StringIO()
    handler = PrefectConsoleHandler(stream=stream)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def log(name: str, pathname: str) -> None:
    record = logging.LogRecord(name, logging.WARNING, pathname, 1, f"logged by {name}", None, None)
    logging.getLogger(name).handle(record)


def test_lines_of_prefect_are_hidden_by_any_logger_name(output: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_LOGGING_LEVEL", raising=False)
    silence_prefect()
    log("EventsWorker", services.__file__)
    log("prefect.anything", services.__file__)
    assert output.getvalue() == ""
    log("tasks.worker.shard", __file__)
    assert "logged by tasks.worker.shard" in output.getvalue()


def test_prefect_logging_level_shows_them(output: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "INFO")
    silence_prefect()
    log("EventsWorker", services.__file__)
    assert "logged by EventsWorker" in output.getvalue()
