"""Tests of the metrics made of measured seconds."""

from __future__ import annotations

from typing import Any

import pytest

from flows.cli.bench.metrics import Measured, Wave, make_block
from flows.cli.bench.plan import TEACHER, THETA


def measured(*waves: Wave) -> Measured:
    return Measured(waves=waves, load_s=9.0, peak_bytes=7 << 20, device="abacus")


def test_metrics_are_those_of_the_median_wave() -> None:
    """100 tokens a wave, 10 a row: T = 100, S = 300, so one after the other makes 75 a second."""
    parts: dict[str, Any] = {"num_steps": 10, "theta_s": 0.5, "teacher_s": 0.75, "mixing_s": 0.5, "num_fallback": 5}
    block = make_block(
        10,
        10,
        {
            TEACHER: measured(
                Wave(elapsed_s=4.0, num_tokens=100),
                Wave(elapsed_s=1.0, num_tokens=100),
                Wave(elapsed_s=0.5, num_tokens=100),
            ),
            THETA: measured(Wave(elapsed_s=1 / 3, num_tokens=100)),
            "lockstep": measured(Wave(elapsed_s=2.0, num_tokens=100, **parts)),
            "HTTP": measured(
                Wave(elapsed_s=8.0, num_tokens=100, theta_s=20.0, teacher_s=40.0, num_fallback=0, num_requests=230)
            ),
        },
    )
    assert block.serial_bound == pytest.approx(75)
    assert block.spread == pytest.approx(1 - 25 / 200)
    teacher, _, lockstep, http = block.lines
    assert teacher.tokens_per_s == 100
    assert teacher.waves_tokens_per_s == (25, 100, 200)
    assert teacher.step_ms == {"all": 100}  # as many steps as a row has tokens
    assert (lockstep.of_bound, lockstep.of_teacher) == (pytest.approx(2 / 3), 0.5)
    assert lockstep.step_ms == {"all": 200, "theta": 50, "teacher": 75, "mixing": 50, "rest": 25}
    assert lockstep.fallback_rate == 0.05
    assert http.step_ms == {"all": 800}
    assert http.request_ms == {"theta": 200, "teacher": 400}
    assert http.num_requests == 230
