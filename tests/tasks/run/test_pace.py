"""Tests of the pace: sums are kept, however coarse."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.run.pace import PER_RUN, PER_SHARD, Pace, coarse, speeds


def random_pace(num: int, seed: int = 0) -> Pace:
    rng = np.random.default_rng(seed)
    seconds, tokens = rng.random(num).tolist(), rng.integers(0, 99, num).astype(float).tolist()
    return list(zip(seconds, tokens, strict=True))


@pytest.mark.parametrize("num_intervals", [1, 20, 21, 5003])
@pytest.mark.parametrize("num", [1, PER_SHARD, PER_RUN])
def test_sums_are_kept(num_intervals: int, num: int) -> None:
    pace = random_pace(num_intervals)
    found = coarse(pace, num)
    assert len(found) <= max(num, 0)
    assert sum(seconds for seconds, _ in found) == pytest.approx(sum(seconds for seconds, _ in pace))
    assert sum(tokens for _, tokens in found) == pytest.approx(sum(tokens for _, tokens in pace))
    if num_intervals > 10 * num:
        assert len(found) >= num // 2
        lengths = [seconds for seconds, _ in found[:-1]]
        assert max(lengths, default=0) <= 2 * min(lengths, default=0) + 1


def test_tokens_of_no_time_at_the_end_are_kept() -> None:
    pace = [(1.0, 10.0)] * 8 + [(0.0, 5.0)]
    assert sum(tokens for _, tokens in coarse(pace, 2)) == 85.0


def test_equal_intervals_are_merged_evenly() -> None:
    assert coarse([(1.0, 10.0)] * 6, 3) == [(2.0, 20.0)] * 3
    assert coarse([(1.0, 10.0), (1.0, 30.0)], 2) == [(1.0, 10.0), (1.0, 30.0)]
    assert coarse([], 5) == []
    assert coarse([(0.0, 3.0)] * 50, 5) == [(0.0, 150.0)]  # no time was taken: one interval


def test_speeds_run_on_from_shard_to_shard() -> None:
    assert speeds([]) == speeds([[], []]) == []
    assert speeds([[(2.0, 10.0)], [], [(0.0, 4.0), (0.5, 10.0)]]) == [[2.0, 5.0], [2.5, 20.0]]
    many = [random_pace(20, seed) for seed in range(100)]
    found = speeds(many)
    assert len(found) <= PER_RUN
    ends = [end for end, _ in found]
    assert ends == sorted(ends)
    assert ends[-1] == pytest.approx(sum(seconds for pace in many for seconds, _ in pace), abs=1e-3)
    before = np.concatenate([[0.0], ends[:-1]])
    drawn = ((np.array(ends) - before) * [speed for _, speed in found]).sum()
    assert drawn == pytest.approx(sum(tokens for pace in many for _, tokens in pace), rel=5e-3)
