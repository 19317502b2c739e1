"""The pace of an engine: tokens drawn per interval of its time."""

from __future__ import annotations

from collections.abc import Iterable

Pace = list[tuple[float, float]]  # (seconds, tokens drawn in them), in chronological order

PER_SHARD, PER_RUN = 20, 400  # intervals kept


def coarse(pace: Pace, num: int) -> Pace:
    """Merge intervals into at most `num` of about equal length."""
    total_s = sum(seconds for seconds, _ in pace)
    if len(pace) <= num:
        return pace
    merged: Pace = []
    seconds_in = tokens_in = 0.0
    for seconds, tokens in pace:
        seconds_in, tokens_in = seconds_in + seconds, tokens_in + tokens
        if seconds_in and seconds_in >= total_s / num:
            merged.append((seconds_in, tokens_in))
            seconds_in = tokens_in = 0.0
    if merged and (not seconds_in or len(merged) == num):  # tokens drawn in 0 s, or a remainder of rounding
        seconds, tokens = merged.pop()
        seconds_in, tokens_in = seconds + seconds_in, tokens + tokens_in
    return [*merged, (seconds_in, tokens_in)]


def speeds(paces: Iterable[Pace]) -> list[list[float]]:
    """Return [engine seconds at an interval's end, tokens a second] for the shards of a run, one after another."""
    found: list[list[float]] = []
    end_s = 0.0
    for seconds, tokens in coarse([(seconds, tokens) for pace in paces for seconds, tokens in pace], PER_RUN):
        end_s += seconds
        if seconds > 0:
            found.append([round(end_s, 3), round(tokens / seconds, 1)])
    return found
