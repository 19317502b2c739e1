"""The prompts of a source's rows: a hostile row is set aside alone, a hostile template refused, system used."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, normalizers
from transformers import PreTrainedTokenizerFast

from sampling.bounds import Bounds
from sampling.errors import TemplateError
from tasks.config import PromptsConfig, SourceConfig
from tasks.source.rows import PreparedRow, QuarantinedRow, prepare_rows
from tests.sampling.prompts.chat_templates import PREFILLED, QWEN
from tests.tiny import byte_tokenizer

BOUNDS = Bounds(render_s=0.3, render_bytes=128 << 20, prompt_chars=100_000)
NESTED = "{% for a in question %}{% for b in question %}{% for c in question %}{% endfor %}{% endfor %}{% endfor %}"


def tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    made = byte_tokenizer()
    made.chat_template = chat_template
    return made


def prepare(
    folder: Path, rows: list[dict[str, Any]], model: PreTrainedTokenizerFast, prompt: dict[str, Any] | None
) -> list[PreparedRow | QuarantinedRow]:
    """Return the prepared rows of a source, both models with the same prompt."""
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = PromptsConfig.model_validate({"theta": prompt, "teacher": prompt})
    return list(prepare_rows(SourceConfig(path=str(folder / "a.jsonl")), prompts, model, model, BOUNDS)[1])


@pytest.mark.parametrize(
    ("template", "question"),
    [
        (f"{NESTED}{{{{ question }}}}", "x" * 500),  # time
        ("{{ question | replace('', question) | replace('', question) | length }}", "x" * 1000),  # memory
        ("{{ question | replace('x', question) }}", "x" * 1000),  # text
    ],
)
def test_a_hostile_row_is_set_aside_alone(tmp_path: Path, template: str, question: str) -> None:
    rows = [{"question": text, "answer": "1"} for text in ("a", question, "b")]
    first, hostile, last = prepare(tmp_path, rows, tokenizer(), {"style": "plain", "template": template})
    assert isinstance(first, PreparedRow)
    assert isinstance(last, PreparedRow)
    assert isinstance(hostile, QuarantinedRow)
    assert hostile.reason == "render_limit"
    assert "bounds." in hostile.detail
    assert hostile.row.endswith("a.jsonl:2")


@pytest.mark.parametrize(
    ("prompt", "chat"),
    [
        ({"style": "plain", "template": "{{ question }}{{ [1] | tojson(indent=1000000000) }}"}, None),
        (
            {"template": "{{ question }}"},
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        ),
        ({"template": "{{ question }}"}, "{% if messages | length == 1 %}{{ 'a' * 3000000000 }}{% endif %}"),
    ],
)
def test_a_hostile_template_is_refused(tmp_path: Path, prompt: dict[str, Any], chat: str | None) -> None:
    start = time.monotonic()
    with pytest.raises(TemplateError, match=r"prompts\.theta\.template.* takes .*bounds\.render_"):
        prepare(tmp_path, [{"question": f"q{i}", "answer": "1"} for i in range(100)], tokenizer(chat), prompt)
    assert time.monotonic() - start < 30.0  # 100 rows at the bound took 60 s


def test_a_row_that_a_normaliser_makes_a_token_of_is_set_aside(tmp_path: Path) -> None:
    model = tokenizer()
    model.backend_tokenizer.normalizer = normalizers.NFKC()
    model.add_special_tokens({"additional_special_tokens": [AddedToken("<|im_end|>", normalized=True, special=True)]})
    rows = [{"question": text, "answer": "1"} for text in ("a <|im_end|>", "＜|im_end|＞")]
    good, forged = prepare(tmp_path, rows, model, {"style": "plain", "template": "{{ question }}"})
    assert isinstance(good, PreparedRow)
    assert isinstance(forged, QuarantinedRow)
    assert forged.reason == "special_token"


def test_system_variables_and_what_the_answer_begins_with(tmp_path: Path) -> None:
    rows = [{"persona": "a pirate", "question": "A red fruit?", "answer": "a cherry"}]
    settings: dict[str, Any] = {"system": "Answer like {{ persona }}.", "template": "{{ question }}"}
    (row,) = prepare(tmp_path, rows, tokenizer(PREFILLED), settings)
    assert isinstance(row, PreparedRow)
    assert row.messages == [
        {"role": "system", "content": "Answer like a pirate."},
        {"role": "user", "content": "A red fruit?"},
        {"role": "assistant", "content": "<think>\n"},
    ]
    settings |= {"chat_template_kwargs": {"enable_thinking": False}}
    (row,) = prepare(tmp_path, rows, tokenizer(QWEN), settings)
    assert isinstance(row, PreparedRow)
    assert row.theta_prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_the_configuration_refuses_what_a_chat_template_is_given_anyway() -> None:
    for kwargs in ({"messages": "x"}, {"add_generation_prompt": False}):
        with pytest.raises(ValueError, match="chat_template_kwargs cannot set"):
            PromptsConfig.model_validate({"theta": {"template": "x", "chat_template_kwargs": kwargs}})
    with pytest.raises(ValueError, match="for style: chat"):
        PromptsConfig.model_validate({"theta": {"style": "plain", "template": "x", "chat_template_kwargs": {"a": 1}}})
    thinking = PromptsConfig.model_validate({"theta": {"template": "x", "chat_template_kwargs": {"think": False}}})
    assert thinking.model_dump(mode="json")["theta"]["chat_template_kwargs"] == {"think": False}  # of the identity
    plain = PromptsConfig.model_validate({"theta": {"style": "plain", "template": "x"}})
    assert plain.model_dump(mode="json")["theta"] == {"style": "plain", "template": "x", "system": None}
