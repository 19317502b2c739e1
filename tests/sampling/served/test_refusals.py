"""The Retry-After header: seconds, dates, nonsense."""

from __future__ import annotations

import email.utils
import time

import pytest
from hypothesis import given
from hypothesis.strategies import text

from sampling.served.refusals import MAX_RETRY_AFTER_S, retry_after_s


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), (" 1.5 ", 1.5), ("-4", 0), ("1e9", MAX_RETRY_AFTER_S), ("nan", 0), ("inf", 60), ("soon", 0), ("", 0)],
)
def test_seconds_are_capped_and_nonsense_is_zero(value: str, seconds: float) -> None:
    assert retry_after_s({"retry-after": value}) == seconds
    assert retry_after_s({}) == 0


@pytest.mark.parametrize(
    "value",
    [
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2020 00:00:00 +99999999999999",
        "Mon, 99999999999999999999 Jan 2020 00:00:00 GMT",
        "Mon, 01 Jan 2020 99999999999999999999:00:00 GMT",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Mon, 01 Jan 2020 00:00:00 " + "9" * 60_000,
        "Mon,",
        "\0",
    ],
)
def test_dates_that_are_none_are_zero(value: str) -> None:
    assert retry_after_s({"retry-after": value}) == 0


@given(text() | text("0123456789:,+-. GMTJanMo"))
def test_no_header_ends_a_run(value: str) -> None:
    assert 0 <= retry_after_s({"retry-after": value}) <= MAX_RETRY_AFTER_S


@pytest.mark.parametrize(("ahead_s", "low", "high"), [(20, 18, 20), (10_000, 60, 60), (-50, 0, 0)])
def test_dates_are_relative_to_now(ahead_s: int, low: float, high: float) -> None:
    assert low <= retry_after_s({"retry-after": email.utils.formatdate(time.time() + ahead_s, usegmt=True)}) <= high
