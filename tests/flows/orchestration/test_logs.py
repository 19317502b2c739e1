"""The terminal shows our own lines, whatever Prefect has to say, as long as nobody asks for it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from prefect._internal.concurrency import services
from prefect.logging.handlers import PrefectConsoleHandler

from flows.orchestration.logs import silence_prefect


@pytest.fixture
def shown() -> Iterator[io.StringIO]:
    """What a console handler of Prefect's prints."""
    stream = io.StringIO()
    handler = PrefectConsoleHandler(stream=stream)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def say(name: str, pathname: str) -> None:
    record = logging.LogRecord(name, logging.WARNING, pathname, 1, f"said by {name}", None, None)
    logging.getLogger(name).handle(record)


def test_what_prefect_says_stays_out_by_whatever_name(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_LOGGING_LEVEL", raising=False)
    silence_prefect()
    say("EventsWorker", services.__file__)
    say("prefect.anything", services.__file__)
    assert shown.getvalue() == ""
    say("tasks.worker.shard", __file__)
    assert "said by tasks.worker.shard" in shown.getvalue()


def test_who_asks_for_it_gets_it(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "INFO")
    silence_prefect()
    say("EventsWorker", services.__file__)
    assert "said by EventsWorker" in shown.getvalue()
