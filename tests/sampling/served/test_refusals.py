"""The Retry-After header: seconds, dates, nonsense."""

from __future__ import annotations

import email.utils
import time

import pytest

from sampling.served.refusals import MAX_RETRY_AFTER_S, retry_after_s


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), (" 1.5 ", 1.5), ("-4", 0), ("1e9", MAX_RETRY_AFTER_S), ("nan", 0), ("inf", 60), ("soon", 0), ("", 0)],
)
def test_seconds_are_capped_and_nonsense_is_zero(value: str, seconds: float) -> None:
    assert retry_after_s({"retry-after": value}) == seconds
    assert retry_after_s({}) == 0


@pytest.mark.parametrize(("ahead_s", "low", "high"), [(20, 18, 20), (10_000, 60, 60), (-50, 0, 0)])
def test_dates_are_relative_to_now(ahead_s: int, low: float, high: float) -> None:
    assert low <= retry_after_s({"retry-after": email.utils.formatdate(time.time() + ahead_s, usegmt=True)}) <= high
