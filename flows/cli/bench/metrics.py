"""The figures of a benchmark, of which its table, its chart and its JSON are made."""

from __future__ import annotations

from typing import Any

from flows.cli.bench.job import Measured, Wave
from flows.cli.bench.plan import TEACHER, THETA
from sampling.config import Frozen
from sampling.models.memory import MemoryPlan


class Line(Frozen):
    """One way of drawing at one number of rows; its figures are those of the wave of median speed."""

    name: str
    num_tokens: int
    elapsed_s: float
    tokens_per_s: float
    of_bound: float  # share of the serial bound
    of_teacher: float  # share of the teacher alone
    num_steps: int | None  # None where nothing counts them
    step_ms: dict[str, float]  # wall milliseconds: `all`; in lockstep `theta`, `teacher`, `mixing`, `rest` too
    request_ms: dict[str, float]  # by HTTP: mean wait of a row for `theta`, `teacher` at each token
    num_requests: int | None  # by HTTP: to both servers
    fallback_rate: float | None  # of q*: share of tokens drawn from the teacher because theta was too far away
    peak_bytes: int
    load_s: float
    waves_tokens_per_s: tuple[float, ...]


class Block(Frozen):
    """All ways of drawing at one number of rows in flight."""

    rows: int
    serial_bound: float  # tokens/s of one model after the other: 1/(1/T + 1/S)
    spread: float  # the largest share by which the slowest wave of a mode was behind its fastest
    lines: tuple[Line, ...]
    memory: MemoryPlan | None  # of the pair in one process


def make_block(rows: int, max_tokens: int, measured: dict[str, Measured]) -> Block:
    """`measured` by name, among them TEACHER and THETA."""
    speeds = [measured[name].median.tokens_per_s for name in (TEACHER, THETA)]
    bound = 1 / sum(1 / speed for speed in speeds)
    lines = [_line(name, found, max_tokens, bound, speeds[0]) for name, found in measured.items()]
    spread = max(found.spread for found in measured.values())
    return Block(rows=rows, serial_bound=bound, spread=spread, lines=tuple(lines), memory=measured[TEACHER].memory)


def _line(name: str, found: Measured, max_tokens: int, bound: float, teacher: float) -> Line:
    wave = found.median
    # vLLM alone and servers do not say how many steps they made: as many as a row has tokens, where all start at once
    num_steps = wave.num_steps or max_tokens
    served = wave.num_requests is not None
    return Line(
        name=name,
        num_tokens=wave.num_tokens,
        elapsed_s=wave.elapsed_s,
        tokens_per_s=wave.tokens_per_s,
        of_bound=wave.tokens_per_s / bound,
        of_teacher=wave.tokens_per_s / teacher,
        num_steps=wave.num_steps,
        step_ms={"all": 1000 * wave.elapsed_s / num_steps, **({} if served else _parts(wave))},
        request_ms=_waits(wave) if served else {},
        num_requests=wave.num_requests,
        fallback_rate=None if wave.num_fallback is None else wave.num_fallback / wave.num_tokens,
        peak_bytes=found.peak_bytes,
        load_s=found.load_s,
        waves_tokens_per_s=tuple(wave.tokens_per_s for wave in found.waves),
    )


def _parts(wave: Wave) -> dict[str, float]:
    if wave.num_steps is None:
        return {}
    seconds: dict[str, Any] = {"theta": wave.theta_s, "teacher": wave.teacher_s, "mixing": wave.mixing_s}
    seconds["rest"] = wave.elapsed_s - sum(seconds.values())
    return {name: 1000 * value / wave.num_steps for name, value in seconds.items()}


def _waits(wave: Wave) -> dict[str, float]:
    seconds: dict[str, Any] = {"theta": wave.theta_s, "teacher": wave.teacher_s}
    return {name: 1000 * value / wave.num_tokens for name, value in seconds.items()}
