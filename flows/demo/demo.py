"""The `demo` command: compares q* with each model alone on held-out problems."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.demo.problems import final_answer, generate_problems
from flows.orchestration.quiet import quiet
from sampling.config import MixtureConfig, SamplingConfig
from sampling.errors import OutputError
from sampling.prompts.dual_prompt import DualPrompt

if TYPE_CHECKING:
    from sampling import DualSampler
    from tasks.config import PipelineConfig

MODELS = Path(__file__).parent / "models"
NAME = "arithmetic-demo"
SEED = 0
SAMPLING = SamplingConfig(max_tokens=64, temperature=1.0, seed=SEED)


@dataclass(frozen=True)
class Score:
    """The results of one way of sampling."""

    solved: float  # share of the problems
    ended: float  # share of completions that ended with EOS
    alpha: float  # mean over tokens
    logprob_theta: float  # mean over tokens, nats: the closeness to theta
    tokens_per_s: float


def run_demo(output: str, num_problems: int) -> Path:
    """Publish a dataset of held-out problems, print the scores of q* and of each model; return the folder."""
    from flows.produce import run_produce

    source = _write_problems(Path(output), num_problems)
    result = run_produce(_config(source, output))
    print("Sampling theta alone and the teacher alone on the same prompts …", file=sys.stderr, flush=True)
    rows = _read_rows(result.path)
    scores = measure_alone(rows)
    engine = json.loads((result.path / "manifest.json").read_text())["engine"]
    scores["q*, balanced"] = _score(rows, engine["num_tokens"] / engine["total_s"])  # without loading, publishing
    print_table(scores, result.metrics)
    return result.path


def _write_problems(folder: Path, num: int) -> Path:
    path = folder / f"{NAME}-problems.jsonl"
    lines = [json.dumps(problem) + "\n" for problem in generate_problems(num, SEED)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}; give a folder that is writable with --output") from None
    return path


def _config(source: Path, output: str) -> PipelineConfig:
    from tasks.config import PipelineConfig

    return PipelineConfig.model_validate(
        {
            "name": NAME,
            "source": {"path": str(source)},
            "prompts": {
                "teacher": {"style": "plain", "template": "Q: {{ question }}\nHint: {{ answer }}\nA:"},
                "theta": {"style": "plain", "template": "Q: {{ question }}\nA:"},
            },
            "models": {name: {"model": str(MODELS / name)} for name in ("teacher", "theta")},
            "mixture": {"preset": "balanced"},
            "sampling": SAMPLING,
            "shards": {"rows": 32},
            "publish": {"root": output},
        }
    )


def _read_rows(dataset: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    columns = ["id", "theta_prompt", "teacher_prompt", "answer", "completion", "finish_reason", "num_tokens",
               "mean_alpha", "mean_logprob_theta"]  # fmt: skip
    rows: list[dict[str, Any]] = pq.read_table(dataset / "data", columns=columns).to_pylist()
    return rows


def measure_alone(rows: Sequence[dict[str, Any]]) -> dict[str, Score]:
    """Score each model alone on a published dataset's prompts: α = 0 is theta, α = 1 the teacher."""
    from sampling import DualSampler

    with quiet():
        sampler = DualSampler(teacher=str(MODELS / "teacher"), theta=str(MODELS / "theta"))
    with sampler:
        return {f"{name} alone": _sample(sampler, rows, alpha) for name, alpha in (("theta", 0.0), ("teacher", 1.0))}


def _sample(sampler: DualSampler, rows: Sequence[dict[str, Any]], alpha: float) -> Score:
    mixture = MixtureConfig.preset("exploratory", alpha_method="fixed", alpha=alpha)
    prompts = [DualPrompt(teacher=row["teacher_prompt"], theta=row["theta_prompt"], id=row["id"]) for row in rows]
    start = time.monotonic()
    outputs = sampler.generate(prompts, SAMPLING, mixture=mixture, progress=False)
    elapsed_s = time.monotonic() - start
    drawn = [
        {
            "answer": row["answer"],
            "completion": output.text,
            "finish_reason": output.finish_reason,
            "num_tokens": len(output.token_ids),
            "mean_alpha": output.diagnostics.alpha.mean(),
            "mean_logprob_theta": output.diagnostics.logprob_theta.mean(),
        }
        for row, output in zip(rows, outputs, strict=True)
    ]
    return _score(drawn, sum(row["num_tokens"] for row in drawn) / elapsed_s)


def _score(rows: Sequence[dict[str, Any]], tokens_per_s: float) -> Score:
    num_tokens = sum(row["num_tokens"] for row in rows)
    return Score(
        solved=sum(final_answer(row["completion"]) == final_answer(row["answer"]) for row in rows) / len(rows),
        ended=sum(row["finish_reason"] == "eos" for row in rows) / len(rows),
        alpha=sum(row["mean_alpha"] * row["num_tokens"] for row in rows) / num_tokens,
        logprob_theta=sum(row["mean_logprob_theta"] * row["num_tokens"] for row in rows) / num_tokens,
        tokens_per_s=tokens_per_s,
    )


def print_table(scores: dict[str, Score], metrics: dict[str, Any]) -> None:
    """Print one line per way of sampling, then the dataset's own metrics."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{metrics['num_rows']} held-out problems; only the teacher is shown the answer")
    table.add_column("drawn from")
    for column in ("solved", "EOS rate", "mean α", "log π_θ a token", "tokens/s"):
        table.add_column(column, justify="right")
    for name, score in scores.items():
        table.add_row(
            name, f"{score.solved:.0%}", f"{score.ended:.0%}", f"{score.alpha:.2f}",
            f"{score.logprob_theta:.2f}", f"{score.tokens_per_s:,.0f}",
        )  # fmt: skip
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    kl_error = metrics["kl_error_max"]
    console.print(
        f"q*: {metrics['num_tokens']} tokens, fallback rate {metrics['fallback_rate']:.1%}, KL error at most"
        f" {'–' if kl_error is None else f'{kl_error:.1e} nats'}; the dataset lies in"
    )
