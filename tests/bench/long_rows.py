"""A benchmark of the time per step as rows grow: 500, 8,000, 32,000 tokens.

    python -m tests.bench.long_rows [--rows 4] [--max-tokens 32000]

Two random tiny models, so that attention, the only part that may grow, does not hide the others. Prints wall
milliseconds per step around each length: of the two models with their attention, of mixing, and of the rest, which is
admission, vLLM's book-keeping, appending tokens to rows, and detokenisation for a stop string that never occurs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from sampling import DualPrompt, DualSampler, EngineConfig, MixtureConfig, ModelConfig, SamplingConfig
from tests.tiny import make_model

WINDOW = 200  # steps that a printed time is the mean of
LENGTHS = (500, 2_000, 8_000, 16_000, 32_000)
PARTS = ("theta_s", "teacher_s", "mixing_s", "total_s")


def main() -> None:
    """Sample and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=32_000)
    args = parser.parse_args()
    context = args.max_tokens + 256
    with tempfile.TemporaryDirectory() as folder:
        teacher, theta = (
            ModelConfig(
                model=str(make_model(Path(folder) / str(seed), seed=seed, max_position_embeddings=context)),
                kv_cache_memory_bytes=1 << 30,
            )
            for seed in (1, 2)
        )
        with DualSampler(teacher, theta, engine=EngineConfig(max_num_seqs=args.rows)) as sampler:
            sampler.eos_ids = ()
            moments = _record(sampler, args.rows, args.max_tokens)
    print(f"{args.rows} rows; ms a step, mean of {WINDOW} steps\n")
    print(f"{'at token':>9} {'theta':>8} {'teacher':>8} {'mixing':>8} {'rest':>8}")
    for length in LENGTHS:
        if length <= args.max_tokens:
            before, after = moments[length - WINDOW], moments[length - 1]
            *parts, total = (1000 * (end - start) / (WINDOW - 1) for start, end in zip(before, after, strict=True))
            print(f"{length:>9,} " + " ".join(f"{part:>8.2f}" for part in (*parts, total - sum(parts))))


def _record(sampler: DualSampler, num_rows: int, max_tokens: int) -> list[tuple[float, ...]]:
    """Return the totals after every step, with wall time, which includes the caller, in place of `total_s`."""
    moments: list[tuple[float, ...]] = []
    step = sampler._engine.step

    def record_step() -> None:
        step()
        stats = sampler.stats.as_dict()
        moments.append((*(stats[name] for name in PARTS[:-1]), time.perf_counter()))

    sampler._engine.step = record_step  # type: ignore[method-assign]
    rows = [DualPrompt("a long story", "a story", id=str(index)) for index in range(num_rows)]
    sampling = SamplingConfig(max_tokens=max_tokens, stop=("never there, never",))
    sampler.generate(rows, sampling, mixture=MixtureConfig.preset("balanced"), progress=False)
    return moments


if __name__ == "__main__":
    main()
