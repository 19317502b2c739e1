"""What the pipeline costs beside the engine: Prefect, adapters, commits, staging, the gate.

    python -m tests.bench.overhead
    python -m tests.bench.overhead --shards 10 1000 --rows 10 --tokens 20 --rate 200000

The engine is a stand-in that hands out recorded completions at the pace of a real one, in the engine's own process:
everything else is the product. A shard costs what its sampling takes longer than the engine needs (the commits steal
that from the engine's thread), with the gap until the next shard's sampling. Time that a thread waits for a core is
left out and printed apart: on a shared machine most of it is other people's, but our own threads beside the engine's
are in it, too, so that only a quiet run, in which it is small, tells the whole cost.
What a run costs once, and what a row costs after the last shard, is said apart. Linux alone.
"""

from __future__ import annotations

import flows.orchestration.environment  # noqa: F401  isort: skip

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

# Put before ours on the engine's path, where Python imports it at its start. A row takes its thread's own time: what
# other threads take from it makes the row later. A real engine waits for its GPU half the time, where nobody steals.
STAND_IN = """
import dataclasses, json, os, sys, time, types
from sampling.engine.stats import SamplingStats

class DualSampler:
    def __init__(self, **settings):
        from tests.tasks.outputs import make_output
        self.stats = SamplingStats()
        self.recorded = [make_output(str(i), num_tokens={num_tokens}) for i in range({num_rows})]

    def run(self, prompts, sampling, skip=()):
        begin, now = moment(), time.monotonic()
        for prompt, output in zip(prompts, self.recorded):
            done = time.thread_time() + {num_tokens} / {rate}
            while time.thread_time() < done:
                pass
            self.stats.num_tokens += {num_tokens}
            self.stats.num_requests += 1
            before, now = now, time.monotonic()
            self.stats.total_s += now - before
            yield dataclasses.replace(output, id=prompt.id)
        with open("/proc/%d/statm" % os.getppid()) as file:
            resident_bytes = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        with open({journal!r}, "a") as file:
            file.write(json.dumps([begin, moment(), resident_bytes]) + "\\n")

def moment():
    waited = []
    for thread in "thread-self", "%d/task/%d" % (os.getppid(), os.getppid()):
        with open("/proc/%s/schedstat" % thread) as file:
            waited.append(int(file.read().split()[1]) / 1e9)
    return time.monotonic(), *waited

module = types.ModuleType("sampling.sampler")
module.DualSampler = DualSampler
sys.modules["sampling.sampler"] = module
"""


@dataclass(frozen=True, slots=True)
class Moment:
    """A time, with what two threads have waited until then for a core, whoever had it."""

    s: float  # monotonic clock
    engine_waited_s: float
    run_waited_s: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """When a shard's sampling began, when it ended, what the run's process then held."""

    begin: Moment
    end: Moment
    resident_bytes: int


def main() -> None:
    """Print seconds and shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--rows", type=int, default=1000, help="a shard")
    parser.add_argument("--tokens", type=int, default=300, help="a row")
    parser.add_argument("--rate", type=float, default=20_000.0, help="tokens/s of the engine")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    journal = folder / "journal.jsonl"
    _stand_in(folder, args, journal)
    once = _prepare()
    print("once a process: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in once.items()), flush=True)
    from flows.produce import produce_dataset
    from tests.tiny import make_pair

    teacher, theta = make_pair(folder)
    spent = _timed()
    for num_shards in args.shards:
        config = _config(folder, teacher, theta, num_shards, args.rows)
        journal.unlink(missing_ok=True)
        spent.clear()
        start_s = time.monotonic()
        produce_dataset(config)
        end_s = time.monotonic()
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        shards = [Sampled(Moment(*begin), Moment(*end), held) for begin, end, held in lines]
        assert len(shards) == num_shards
        _print(shards, args, start_s, end_s, spent)


def _prepare() -> dict[str, float]:
    """Seconds of what a process does once, whatever it produces."""
    seconds: dict[str, float] = {}
    start = time.monotonic()
    for name, step in (
        ("importing the flow", lambda: __import__("flows.produce")),
        ("Great Expectations", lambda: __import__("great_expectations")),
        ("Prefect's server", lambda: __import__("flows.orchestration.server", fromlist=["_"]).start_server()),
    ):
        step()
        seconds[name] = time.monotonic() - start
        start = time.monotonic()
    return seconds


def _timed() -> dict[str, float]:
    """The seconds of a run's steps outside its shards, counted from now on."""
    import flows.produce
    import tasks.publish.publish
    import validations.gate

    spent: dict[str, float] = {}

    def wrap(module: ModuleType, name: str) -> None:
        inner: Callable[..., Any] = getattr(module, name)

        def timed(*args: Any, **context: Any) -> Any:
            start = time.monotonic()
            try:
                return inner(*args, **context)
            finally:
                spent[name] = spent.get(name, 0.0) + time.monotonic() - start

        setattr(module, name, timed)

    for name in ("plan_rows", "check_prompts"):
        wrap(flows.produce, name)
    for name in ("stage", "verify", "write_documents"):
        wrap(tasks.publish.publish, name)
    wrap(validations.gate, "judge")
    return spent


def _print(
    shards: list[Sampled], args: argparse.Namespace, start_s: float, end_s: float, spent: dict[str, float]
) -> None:
    num_rows = len(shards) * args.rows
    engine_s = args.rows * args.tokens / args.rate
    within = [_net_s(shard.begin, shard.end) - engine_s for shard in shards]
    gaps = [_between_s(before.end, after.begin) for before, after in pairwise(shards)]
    print(
        f"\n{len(shards)} shards of {args.rows} rows, {engine_s:.3g} s of engine each: {end_s - start_s:.1f} s in all"
    )
    if gaps:
        costs = [first + second for first, second in zip(within, gaps, strict=False)]
        print(f"  a shard costs {_spread(costs)}, {median(costs) / engine_s:.2%} of its engine time")
        print(f"  of that within its sampling {_spread(within)}, until the next {_spread(gaps)}")
        tenth = max(1, len(costs) // 10)
        print(f"  the first tenth of the shards {_spread(costs[:tenth])}, the last {_spread(costs[-tenth:])}")
        wall_s = shards[-1].begin.s - shards[0].begin.s
        waited_s = wall_s - sum(costs) - len(gaps) * engine_s
        print(
            f"  left out: {waited_s / wall_s:.1%} of the time, spent waiting for a core; with it a shard costs"
            f" {(wall_s - len(gaps) * engine_s) / len(gaps) / engine_s:.2%} on average"
        )
    held = [shards[place].resident_bytes / 2**20 for place in (0, len(shards) // 2, -1)]
    print("  the run's process holds, after the first, the middle, the last shard: ", end="")
    print(", ".join(f"{size:.0f} MB" for size in held))
    before_s, after_s = shards[0].begin.s - start_s, end_s - shards[-1].end.s
    named = ", ".join(f"{name} {seconds:.2f} s ({seconds / num_rows * 1e3:.2f} ms)" for name, seconds in spent.items())
    print(f"  before the first token {before_s:.1f} s, after the last {after_s:.1f} s; of them (a row): {named}")
    sys.stdout.flush()


def _net_s(begin: Moment, end: Moment) -> float:
    return end.s - begin.s - (end.engine_waited_s - begin.engine_waited_s)


def _between_s(end: Moment, begin: Moment) -> float:
    """The run works while the engine's thread is idle: both have waited in turn."""
    return _net_s(end, begin) - (begin.run_waited_s - end.run_waited_s)


def _spread(seconds: list[float]) -> str:
    return f"{median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f})"


def _stand_in(folder: Path, args: argparse.Namespace, journal: Path) -> None:
    """Put the stand-in on the path that the engine's process is given."""
    (folder / "stand_in").mkdir()
    code = STAND_IN.format(num_tokens=args.tokens, num_rows=args.rows, rate=args.rate, journal=str(journal))
    (folder / "stand_in" / "sitecustomize.py").write_text(code)
    sys.path.insert(0, str(folder / "stand_in"))


def _config(folder: Path, teacher: Path, theta: Path, num_shards: int, rows: int) -> Any:
    from tasks.config import PipelineConfig
    from tests.tiny import LAX

    source = folder / f"{num_shards}.jsonl"
    with source.open("w") as file:
        for i in range(num_shards * rows):
            file.write(json.dumps({"question": f"What is {i} and {i + 7}?", "answer": f"#### {2 * i + 7}"}) + "\n")
    plain = {"style": "plain", "template": "Q: {{ question }}\nA:"}
    return PipelineConfig.model_validate(
        {
            "name": f"overhead-{num_shards}",
            "source": {"path": str(source)},
            "prompts": {"teacher": {**plain, "template": "Q: {{ question }}\nHint: {{ answer }}\nA:"}, "theta": plain},
            "models": {"teacher": {"model": str(teacher)}, "theta": {"model": str(theta)}},
            "sampling": {"max_tokens": 400},
            "shards": {"rows": rows},
            "validation": {**LAX, "duplicate_rate_max": 1.0},
            "publish": {"root": str(folder / "out")},
        }
    )


if __name__ == "__main__":
    main()
