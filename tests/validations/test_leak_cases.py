"""Leaks in prompts as the source and its templates make them, judged as before sampling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sampling.bounds import Bounds
from tasks.config import PromptConfig, PromptsConfig, SourceConfig
from tasks.source.rows import PreparedRow, prepare_rows
from tests.tiny import byte_tokenizer
from validations.measure.aggregates import Metrics
from validations.measure.metadata import DatasetMetadata
from validations.measure.metrics import MetricSums
from validations.measure.prompts import judge_prompts

HINT = "{{ question }}\nHint: {{ answer }}"
MCQ = "Which is a fruit?\nA) chair\nB) plum\nC) brick\nD) wire"
ALPACA = "### Instruction:\n{{ instruction }}\n{% if input %}\n### Input:\n{{ input }}\n{% endif %}\n### Response:\n"
REVIEWS = [{"question": f"Film {i} was a joy to watch.", "answer": "positive"} for i in range(6)]
LETTERS = [{"question": MCQ, "answer": letter, "hint": f"The answer is {letter}."} for letter in "BCAD"]
PENS = [{"question": f"Ann has {i} pens and buys 1199. How many?", "answer": str(i + 1199)} for i in range(3)]
CAPITALS = [{"question": f"Capital {i}?", "answer": name} for i, name in enumerate(("PARIS", "ROME", "OSLO"))]


def judged(folder: Path, rows: list[dict[str, Any]], theta: str, teacher: str = HINT) -> Metrics:
    """Return the metrics of the prompts that two plain templates render."""
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = PromptsConfig(
        theta=PromptConfig(style="plain", template=theta), teacher=PromptConfig(style="plain", template=teacher)
    )
    tokenizer = byte_tokenizer()
    _, prepared = prepare_rows(SourceConfig(path=str(source)), prompts, tokenizer, tokenizer, Bounds())
    found = [row for row in prepared if isinstance(row, PreparedRow)]
    assert len(found) == len(rows)
    fields = ("question", "answer", "solution", "final_answer")
    table = pa.table(
        {
            "theta_prompt": [row.theta_prompt for row in found],
            "teacher_prompt": [row.teacher_prompt for row in found],
            "example": [{name: getattr(row.example, name) for name in fields} for row in found],
        }
    )
    sums = MetricSums()
    sums.add_prompts(judge_prompts(table, DatasetMetadata()))
    return sums.metrics(teacher_sees_reference=True)


@pytest.mark.parametrize(
    ("rows", "theta", "leak_rate"),
    [
        (REVIEWS, "Is this review positive or negative?\n{{ question }}", 0.0),
        (REVIEWS, "Label the review as one of: positive, negative, neutral.\n{{ question }}", 0.0),
        (REVIEWS, "{{ question }}\nIt is {{ answer[:8] }}.", 1.0),
        (LETTERS, "{{ question }}\n{{ hint }}", 1.0),
        (LETTERS, "{{ question }}\nAnswer with A, B, C or D.", 0.0),
        (LETTERS[:1], "{{ question }}\nAnswer with A, B, C or D.", 0.0),
        (PENS, "{{ question }}\n({{ '{:,}'.format(answer | int) }})", 1.0),
        (CAPITALS, "{{ question }} {{ answer | capitalize }}", 1.0),
    ],
)
def test_leaks(tmp_path: Path, rows: list[dict[str, Any]], theta: str, leak_rate: float) -> None:
    rows = [{**row, "told": row["answer"]} for row in rows]
    theta = theta.replace("answer", "told") if "{{ answer" in theta or "(answer" in theta else theta
    metrics = judged(tmp_path, rows, theta)
    assert (metrics["leak_rate"], metrics["question_rate"], metrics["reference_rate"]) == (leak_rate, 1.0, 1.0)


def test_where_no_reference_is_known_no_leak_is_judged(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "What is 3 + 4?"}], "found": "7"}]
    assert judged(tmp_path, rows, "{{ question }}\nThe answer is {{ found }}.", "{{ question }}")["leak_rate"] is None


def test_alpacas_own_prompt_holds_the_question(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Translate to French.", "input": "Good morning", "output": "Bonjour"},
        {"instruction": "Name a red fruit.", "input": "", "output": "Cherry"},
    ]
    metrics = judged(tmp_path, rows, ALPACA, "Reference: {{ answer }}\n\n" + ALPACA)
    assert (metrics["question_rate"], metrics["leak_rate"], metrics["reference_rate"]) == (1.0, 0.0, 1.0)
