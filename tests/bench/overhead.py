"""What the pipeline costs beside the engine: Prefect, adapters, commits, staging, the gate.

    python -m tests.bench.overhead

The engine is a stand-in that hands out recorded completions at the pace of a real one, in the engine's own process:
everything else is the product. Runs of different lengths tell what a run costs once from what each shard adds.
"""

from __future__ import annotations

import flows.environment  # noqa: F401  isort: skip

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from flows.produce import produce_dataset
from flows.server import start_server
from tasks.config import PipelineConfig
from tests.tiny import LAX, make_pair

# Put before ours on the engine's path, where Python imports it at its start.
STAND_IN = """
import dataclasses, sys, time, types
from sampling.stats import SamplingStats

class DualSampler:
    def __init__(self, **settings):
        from tests.tasks.outputs import make_output
        self.stats = SamplingStats()
        self.recorded = [make_output(str(i), num_tokens={num_tokens}) for i in range(64)]

    def run(self, prompts, sampling, skip=()):
        due = time.perf_counter()
        for place, prompt in enumerate(prompts):
            due += {num_tokens} / {rate}
            time.sleep(max(0.0, due - time.perf_counter()))
            self.stats.num_tokens += {num_tokens}
            self.stats.num_requests += 1
            self.stats.total_s += {num_tokens} / {rate}
            yield dataclasses.replace(self.recorded[place % 64], id=prompt.id)

module = types.ModuleType("sampling.sampler")
module.DualSampler = DualSampler
sys.modules["sampling.sampler"] = module
"""


def main() -> None:
    """Print seconds and shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs=2, default=[2, 10])
    parser.add_argument("--rows", type=int, default=1000, help="a shard")
    parser.add_argument("--tokens", type=int, default=300, help="a row")
    parser.add_argument("--rate", type=float, default=20_000.0, help="tokens/s of the engine")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    (folder / "stand_in").mkdir()
    code = STAND_IN.format(num_tokens=args.tokens, rate=args.rate)
    (folder / "stand_in" / "sitecustomize.py").write_text(code)
    sys.path.insert(0, str(folder / "stand_in"))
    teacher, theta = make_pair(folder)
    start_server()
    overheads = []
    for num_shards in args.shards:
        config = _config(folder, teacher, theta, num_shards, args.rows)
        start = time.perf_counter()
        result = produce_dataset(config)
        wall_s = time.perf_counter() - start
        engine = json.loads((result.path / "manifest.json").read_text())["engine"]
        assert engine["num_tokens"] == num_shards * args.rows * args.tokens
        overheads.append(wall_s - engine["total_s"])
        share = overheads[-1] / engine["total_s"]
        print(
            f"{num_shards} shards: {wall_s:.1f} s, of them the engine {engine['total_s']:.1f} s; {share:.1%} beside it"
        )
    per_shard_s = (overheads[1] - overheads[0]) / (args.shards[1] - args.shards[0])
    engine_s = args.rows * args.tokens / args.rate
    print(f"each shard of {args.rows} rows, {engine_s:.1f} s of engine, adds {per_shard_s:.2f} s: ", end="")
    print(f"{per_shard_s / engine_s:.1%}; a run costs {overheads[0] - args.shards[0] * per_shard_s:.1f} s once")


def _config(folder: Path, teacher: Path, theta: Path, num_shards: int, rows: int) -> PipelineConfig:
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
