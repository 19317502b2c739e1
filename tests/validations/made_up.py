"""Verdict with made-up metrics that resemble a real dataset's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from validations.measure.aggregates import Aggregates, ByPosition, Correctness, Histogram, SampleRow, TokenGap, WorstRow
from validations.verdict import CheckResult, Verdict

WORDS = [
    " The",
    " sum",
    " of",
    " 12",
    " and",
    " 30",
    " is",
    " ",
    "\n",
    " **",
    "42",
    "**",
    ".",
    " So",
    " we",
    "\t",
    " get",
]
SPEED = [[60.0 * (i + 1), 2400.0 + 300 * np.sin(i / 3)] for i in range(40)]
MANIFEST: dict[str, Any] = {
    "name": "math_qa", "version": "v3", "run_id": "8f2c1d", "created": "2026-11-20T10:00:00+00:00", "published": False,
    "num_rows": 400, "quarantine": {"prompt_too_long": 3, "template": 1},
    "engine": {"num_tokens": 81234, "engine_seconds": 2400.0, "tokens_per_second": 33.8}, "num_attempts": 9,
    "source": {"adapter": "gsm8k", "files": ["train.jsonl"], "num_rows": 404},
    "config": {"models": {"theta": {"model": "Qwen/Qwen2.5-1.5B"}, "teacher": {"model": "Qwen/Qwen2.5-7B-Instruct"}},
               "mixture": {"alpha_method": "kl_symmetry"}},
    "libraries": {"torch": "2.10.0", "vllm": "0.26.0"}, "speed": SPEED,
    "slowest_shards": [{"shard": 4, "num_rows": 50, "num_tokens": 9800, "seconds": 391.2, "num_attempts": 2},
                       {"shard": 1, "num_rows": 50, "num_tokens": 9100, "seconds": 302.0, "num_attempts": 1}],
}  # fmt: skip
QUARANTINED: list[dict[str, Any]] = [
    {"row": 17, "reason": "template", "detail": "the row has no field `answer`", "id": None},
    {"id": "ab" * 16, "sample_idx": 1, "reason": "prompt_too_long", "detail": "2100 tokens, at most 2048"},
]


def make_histogram(values: np.ndarray, low: float, high: float, num_bins: int = 40) -> Histogram:
    edges = np.linspace(low, high, num_bins + 1)
    counts, _ = np.histogram(np.clip(values, low, high), edges)
    return Histogram(edges.tolist(), counts.tolist())


def make_positions(rng: np.random.Generator) -> ByPosition:
    starts = [0, 1, 2, 4, 8, 16, 32, 64, 128]
    n = len(starts)
    fallback = np.linspace(0.3, 0.02, n)
    return ByPosition(
        starts=starts,
        stops=[*starts[1:], 256],
        num_tokens=[400] * n,
        mean_alpha=[None, *(0.6 - 0.25 * np.linspace(0, 1, n - 1) + rng.normal(0, 0.02, n - 1)).tolist()],
        sd_alpha=[None, *np.full(n - 1, 0.15).tolist()],
        mean_js=np.linspace(0.3, 0.05, n).tolist(),
        mean_overlap_mass=np.linspace(0.5, 0.95, n).tolist(),
        fallback_rate=fallback.tolist(),
    )


def make_sample(rng: np.random.Generator, row: int = 0, num_tokens: int = 120, **changes: Any) -> SampleRow:
    mode = rng.choice(["mixed", "forced", "fallback"], num_tokens, p=[0.85, 0.08, 0.07]).tolist()
    pieces = rng.choice(WORDS, num_tokens).tolist()
    values: dict[str, Any] = {
        "id": f"{row:032x}", "sample_idx": 0, "why": "drawn at random", "theta_prompt": "Q: 12 + 30?\nA:",
        "teacher_prompt": "The answer is 42.\nQ: 12 + 30?\nA:", "completion": "".join(pieces), "finish_reason": "eos",
        "reference": "42", "is_correct": True, "pieces": pieces, "mode": mode,
        "alpha": [float(rng.uniform()) if m == "mixed" else 1.0 for m in mode],
        "kl_error": (10 ** rng.normal(-9, 1, num_tokens)).tolist(),
        "logprob_q": (-rng.exponential(0.5, num_tokens)).tolist(),
        "logprob_theta": [-float("inf") if m == "fallback" else -float(rng.exponential()) for m in mode],
        "logprob_teacher": (-rng.exponential(0.4, num_tokens)).tolist(),
    }  # fmt: skip
    return SampleRow(**(values | changes))


def make_aggregates(seed: int = 0, num_samples: int = 3) -> Aggregates:
    """Some 20,000 tokens of 400 completions."""
    rng = np.random.default_rng(seed)
    judged = rng.integers(5, 60, 10)
    edges = np.linspace(0, 1, 11)
    return Aggregates(
        alpha=make_histogram(rng.beta(3 + seed, 4, 20_000), 0, 1),
        log10_kl_error=make_histogram(rng.normal(-9, 1, 20_000), -12, 0),
        overlap_mass=make_histogram(rng.beta(8, 2 + seed, 20_000), 0, 1),
        log10_ess_ratio=make_histogram(rng.normal(0.2, 0.5, 20_000), -3, 3),
        num_tokens={
            "eos": make_histogram(rng.gamma(6, 15, 320), 0, 256),
            "stop": make_histogram(rng.gamma(4, 15, 30), 0, 256),
            "length": make_histogram(np.full(50, 256.0), 0, 256),
        },
        by_position=make_positions(rng),
        correctness=Correctness(
            edges.tolist(), judged.tolist(), rng.binomial(judged, np.linspace(0.4, 0.9, 10)).tolist()
        ),
        worst=[
            WorstRow(f"{i:032x}", 0, name, value, 200 - i, "length", "and and and and")
            for i, (name, value) in enumerate({"max_kl_error": 3e-5, "mean_js": 0.61, "num_tokens": 256}.items())
        ],
        samples=[make_sample(rng, row) for row in range(num_samples)],
        gaps=[TokenGap(" 42", 17, 6.25, 0.3125), TokenGap("\n", 3, 1.5, 0.01)],
    )


def make_empty_aggregates() -> Aggregates:
    """Of a dataset without a row."""
    edges = [0.0, 0.5, 1.0]
    empty = Histogram(edges, [0, 0])
    return Aggregates(empty, empty, empty, empty, {}, ByPosition([], [], [], [], [], [], [], []), None)


def make_checks(is_refused: bool = True, is_warned: bool = True) -> tuple[CheckResult, ...]:
    def at_most(name: str, suite: Any, meaning: str, limit: str, **rest: Any) -> CheckResult:
        values = {"severity": "refuse", "outcome": "passed"} | rest
        expectation = "expect_column_values_to_be_between"
        return CheckResult(name, suite, values.pop("severity"), expectation, meaning, limit, **values)

    failed: Any = "failed" if is_refused else "passed"
    warned: Any = "failed" if is_warned else "passed"
    return (
        at_most("leaks", "prompts", "theta's prompt holds the answer", "= 0", num_outside=0),
        at_most("question_in_prompts", "prompts", "a prompt lacks its question", "= 1", outcome="not judged",
                why="the dataset names no question column"),
        at_most("eos_rate", "completions", "too few completions end by themselves", "≥ 0.5", value=0.875),
        at_most("repetition_rate", "completions", "completions loop", "≤ 0.05", value=0.071 if is_warned else 0.01,
                severity="warn", outcome=warned),
        at_most("fallback_rate", "tokens", "the teacher alone drew too many tokens", "≤ 0.5",
                value=0.93 if is_refused else 0.04, outcome=failed),
        at_most("max_kl_error", "tokens", "α does not solve KL symmetry", "≤ 1e-06",
                value=3.2e-5 if is_refused else 4e-8, num_outside=7 if is_refused else 0, outcome=failed),
    )  # fmt: skip


def make_verdict(seed: int = 0, is_refused: bool = True, is_warned: bool = True, **changes: Any) -> Verdict:
    metrics = {
        "num_rows": 400, "num_tokens": 81_234, "fallback_rate": 0.93 if is_refused else 0.04, "eos_rate": 0.875,
        "mean_alpha": 0.44 + seed / 100, "kl_error_max": 3.2e-5, "mean_js": 0.12, "correct_rate": None,
    }  # fmt: skip
    return replace(Verdict(make_checks(is_refused, is_warned), metrics, make_aggregates(seed)), **changes)
