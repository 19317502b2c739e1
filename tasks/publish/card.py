"""The dataset card, README.md."""

from __future__ import annotations

import hashlib
import html
import re
from typing import Any

import yaml

from sampling.config import ModelConfig
from tasks.config import PipelineConfig
from tasks.publish.staging import Staged
from tasks.run.plan import Plan

MAX_CHARACTERS = 600  # of a text in the example
LOAD = """from datasets import load_dataset

rows = load_dataset({source}, split="train")
rows[0]["messages"]
"""
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
COLUMNS = {
    "id, sample_idx": "a row of the source, by a hash of its content; which of its completions this is",
    "theta_prompt, teacher_prompt": "what each model was shown",
    "messages": "the conversation as TRL trainers read it; the teacher's prompt is not in it",
    "example": "question, answer, solution, final_answer of the row, whatever its source calls them",
    "completion, token_ids, finish_reason, num_tokens": "what was drawn; `eos`, `stop` or `length`",
    "alpha, mode": "per token: the teacher's weight; `mixed`, `forced` or `fallback`",
    "kl_theta, kl_teacher, kl_error": "per token: KL(q*‖π_θ), KL(q*‖π_t), their distance; nats",
    "js, overlap_mass, overlap_count": "per token: how far apart the two models were",
    "support_size, entropy, ess_ratio": "per token: what could be drawn",
    "log_z": "per token: log Z, so that log q* = (1−α)·log π_θ + α·log π_t − log Z",
    "logprob_q, logprob_theta, logprob_teacher": "per token: log-probability of the drawn token",
    "q_error, js_error": "per token: how far off q* and js may be, where models were served; 0 elsewhere",
    "mean_…, max_kl_error, num_…": "figures of the row",
}


def _config_name(staged: Staged) -> str:
    """Return a name that changes with the data.

    `datasets` caches a local folder by its own name and this one: if it did not change, `load_dataset(…/latest)` would
    always return the rows of the first version it loaded.
    """
    digest = hashlib.sha256("".join(file.sha256 for file in staged.files).encode())
    return f"data-{digest.hexdigest()[:12]}"


def card(
    config: PipelineConfig,
    version: str,
    plan: Plan,
    staged: Staged,
    metrics: dict[str, Any],
    example: dict[str, str],
) -> str:
    """Return a dataset's README.md. `example`: the titled prompts and completion of one row."""
    header = {
        "pretty_name": config.name,
        "task_categories": ["text-generation"],
        "size_categories": [next((size for limit, size in SIZES if staged.num_rows < limit), "n>1M")],
        "tags": ["dual-sampling", "distillation", "synthetic"],
        "configs": [
            {
                "config_name": _config_name(staged),
                "default": True,
                "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
            }
        ],
    }
    settings = config.model_dump(mode="json", exclude={"shards", "publish", "engine"})
    settings["prompts"] = plan.prompts
    return (
        "\n\n".join(
            [
                f"---\n{_yaml(header)}---",
                f"# {config.name}",
                f"{staged.num_rows} completions of {plan.num_rows} rows. Every token was drawn from a mixture of two"
                " language models, q\\* ∝ π_θ^(1−α) · π_t^α: the student or base model"
                f" {_name(config.models.theta)} (theta) and the teacher {_name(config.models.teacher)}, each with a"
                " prompt of its own. Made with Dual Sampling.",
                "## Load",
                _fenced("python", LOAD.format(source=_source(config, version))),
                "## Figures",
                _table(["figure", "value"], [[name, _number(value)] for name, value in metrics.items()]),
                *_quarantine(staged),
                "## Columns",
                "Beside the source's own columns:",
                _table(["columns", "meaning"], [[name, meaning] for name, meaning in COLUMNS.items()]),
                "## Example",
                *(f"{name}:\n\n<pre>{_escaped(text)}</pre>" for name, text in example.items()),
                "## Configuration",
                _fenced("yaml", _yaml(settings)),
            ]
        )
        + "\n"
    )


def _name(model: ModelConfig) -> str:
    return f"`{model.model}`" if model.lora is None else f"`{model.model}` with the LoRA adapter `{model.lora}`"


def _source(config: PipelineConfig, version: str) -> str:
    if config.publish.hub is None:
        return '"path/of/this/folder"'
    return f'"{config.publish.hub}", revision="{version}"'


def _quarantine(staged: Staged) -> list[str]:
    if not staged.quarantine:
        return []
    rows = [[reason, str(num)] for reason, num in sorted(staged.quarantine.items())]
    return ["## Left out", "`quarantine.jsonl` says why, row by row.", _table(["reason", "rows"], rows)]


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    """Escape text for an HTML block in Markdown, which a blank line would end."""
    cut = text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"
    printable = (char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in cut)
    return html.escape("".join(printable)).replace("\n", "&#10;")


def _fenced(language: str, text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}{fence}"
