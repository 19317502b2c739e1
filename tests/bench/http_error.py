"""A measurement of how far q* of two servers' top-k replies is from the exact q*.

    python -m tests.bench.http_error

Serves the demo's two models on this machine, draws completions of held-out problems from the logprobs of all ids, then
requests the k likeliest ids alone at every position. The distance is total variation: at 0.01, one token in a hundred
may differ.
"""

from __future__ import annotations

import sampling.environment  # noqa: F401  isort: skip

import argparse
import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

from flows.demo.problems import generate_problems
from sampling import DualPrompt, DualSampler, EngineConfig, MixtureConfig, ModelConfig, SamplingConfig
from sampling.served.config import HttpConfig
from sampling.served.pair import LogprobRequest
from sampling.served.serving import ServingConfig, serving
from tests.sampling.served.distances import distances
from tests.sampling.served.servers import free_port

MODELS = Path(__file__).parents[2] / "flows" / "demo" / "models"
WIDE = 1.5  # the trained models' distributions are sharp: at this temperature their tails are heavy


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--top-k", type=int, nargs="+", default=[5, 20, 100])
    args = parser.parse_args()
    config = ServingConfig(
        theta=ModelConfig(model=str(MODELS / "theta")),
        teacher=ModelConfig(model=str(MODELS / "teacher")),
        engine=EngineConfig(max_num_seqs=32),
        theta_port=free_port(),
        teacher_port=free_port(),
        logs=Path(tempfile.mkdtemp()),
    )
    with serving(config) as urls:
        print(
            "| T | protections | k | q* distance, mean | max | bound, mean | JS missing, max | α off, max | requests |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for temperature in (1.0, WIDE):
            requests, num_ids = _requests(urls, args.problems, temperature)
            for preset in ("balanced", "exploratory"):
                mixture = MixtureConfig.preset(preset)
                top_p = mixture.target_top_p if mixture.trust_region else None
                sent = [replace(request, target_top_p=top_p) for request in requests]
                for top_k in args.top_k:
                    http = HttpConfig(top_k=top_k, max_tail_mass=1.0)  # never more than k
                    found = asyncio.run(distances(urls, num_ids, sent, http, mixture))
                    print(
                        f"| {temperature} | {preset} | {top_k} | {found.q.mean():.1e} | {found.q.max():.1e}"
                        f" | {found.q_bound.mean():.1e} | {found.js.max():.1e} | {found.alpha.max():.1e}"
                        f" | {found.num_requests:.1f} |",
                        flush=True,
                    )
        print(f"\n{len(requests)} positions, {num_ids} ids")


def _requests(urls: tuple[str, str], num_problems: int, temperature: float) -> tuple[list[LogprobRequest], int]:
    """Return a request for every position of drawn completions, and the number of ids."""
    rows = [
        DualPrompt(
            teacher=f"Q: {problem['question']}\nHint: {problem['answer']}\nA:",
            theta=f"Q: {problem['question']}\nA:",
            id=str(number),
        )
        for number, problem in enumerate(generate_problems(num_problems, seed=3))
    ]
    http = HttpConfig(top_k=1 << 20)
    sampling = SamplingConfig(max_tokens=40, temperature=temperature)
    with DualSampler(
        str(MODELS / "teacher"), str(MODELS / "theta"), theta_url=urls[0], teacher_url=urls[1], http=http
    ) as sampler:
        outs = sampler.generate(rows, sampling, progress=False)
        num_ids = sampler._engine.num_ids
        prompts = [
            (tuple(sampler.theta_tokenizer.encode(row.theta)), tuple(sampler.teacher_tokenizer.encode(row.teacher)))
            for row in rows
            if isinstance(row.theta, str) and isinstance(row.teacher, str)
        ]
    requests = [
        LogprobRequest(number, theta + out.token_ids[:index], teacher + out.token_ids[:index], temperature, None)
        for number, (out, (theta, teacher)) in enumerate(zip(outs, prompts, strict=True))
        for index in range(len(out.token_ids))
    ]
    return requests, num_ids


if __name__ == "__main__":
    main()
