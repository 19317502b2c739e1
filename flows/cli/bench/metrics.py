"""The metrics of a benchmark, from which its table, chart and JSON are made."""

from __future__ import annotations

from typing import Any

from flows.cli.bench.plan import TEACHER, THETA
from sampling.config import Frozen
from sampling.models.memory import MemoryPlan

NUM_WAVES = 3  # measured, after one that warms up


class Wave(Frozen):
    """All rows sampled once, prefill included."""

    elapsed_s: float
    num_tokens: int
    num_steps: int | None = None  # None: plain vLLM and servers do not count them
    theta_s: float | None = None  # in lockstep: wall time of that part; by HTTP: sum of all rows' waits
    teacher_s: float | None = None
    mixing_s: float | None = None
    num_fallback: int | None = None
    num_requests: int | None = None  # sent to both servers

    @property
    def tokens_per_s(self) -> float:
        """Tokens drawn per second of wall time."""
        return self.num_tokens / self.elapsed_s


class Measured(Frozen):
    """The result of one measuring process."""

    waves: tuple[Wave, ...]
    load_s: float
    peak_bytes: int  # of GPU memory that torch reserved; on a CPU, of the process
    device: str  # its name
    memory: MemoryPlan | None = None  # of the pair; None where it is served

    @property
    def median(self) -> Wave:
        """The wave of median speed."""
        return sorted(self.waves, key=lambda wave: wave.tokens_per_s)[len(self.waves) // 2]

    @property
    def spread(self) -> float:
        """1 − speed of the slowest wave / speed of the fastest."""
        speeds = [wave.tokens_per_s for wave in self.waves]
        return 1 - min(speeds) / max(speeds)


class Line(Frozen):
    """One mode at one number of rows; its metrics are those of the wave of median speed."""

    name: str
    num_tokens: int
    elapsed_s: float
    tokens_per_s: float
    of_bound: float  # share of the serial bound
    of_teacher: float  # share of the teacher alone
    num_steps: int | None  # None where not counted
    step_ms: dict[str, float]  # wall milliseconds: `all`; in lockstep `theta`, `teacher`, `mixing`, `rest` too
    request_ms: dict[str, float]  # by HTTP: mean wait per token for `theta`, `teacher`
    num_requests: int | None  # by HTTP, to both servers
    fallback_rate: float | None  # share of q*'s tokens drawn from the teacher because the models were too far apart
    peak_bytes: int
    load_s: float
    waves_tokens_per_s: tuple[float, ...]


class Block(Frozen):
    """All modes at one number of rows in flight."""

    rows: int
    serial_bound: float  # tokens/s of one model after the other: 1/(1/T + 1/S)
    spread: float  # the largest `Measured.spread` of a mode
    lines: tuple[Line, ...]
    memory: MemoryPlan | None  # of the pair in one process


def make_block(rows: int, max_tokens: int, measured: dict[str, Measured]) -> Block:
    """Return the metrics of `measured`: results by name, TEACHER and THETA among them."""
    speeds = [measured[name].median.tokens_per_s for name in (TEACHER, THETA)]
    bound = 1 / sum(1 / speed for speed in speeds)
    lines = [_line(name, found, max_tokens, bound, speeds[0]) for name, found in measured.items()]
    spread = max(found.spread for found in measured.values())
    return Block(rows=rows, serial_bound=bound, spread=spread, lines=tuple(lines), memory=measured[TEACHER].memory)


def _line(name: str, found: Measured, max_tokens: int, bound: float, teacher: float) -> Line:
    wave = found.median
    # plain vLLM and servers do not count steps: all rows start at once, so there is one step per token of a row
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
        step_ms={"all": 1000 * wave.elapsed_s / num_steps, **({} if served else _step_ms(wave))},
        request_ms={name: 1000 * value / wave.num_tokens for name, value in _waits(wave).items()} if served else {},
        num_requests=wave.num_requests,
        fallback_rate=None if wave.num_fallback is None else wave.num_fallback / wave.num_tokens,
        peak_bytes=found.peak_bytes,
        load_s=found.load_s,
        waves_tokens_per_s=tuple(wave.tokens_per_s for wave in found.waves),
    )


def _waits(wave: Wave) -> dict[str, Any]:
    return {"theta": wave.theta_s, "teacher": wave.teacher_s}


def _step_ms(wave: Wave) -> dict[str, float]:
    if wave.num_steps is None:
        return {}
    seconds = {**_waits(wave), "mixing": wave.mixing_s}
    seconds["rest"] = wave.elapsed_s - sum(seconds.values())
    return {name: 1000 * value / wave.num_steps for name, value in seconds.items()}
