"""Tests of every known format: examples, default prompts, broken rows."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.source.example import BadRowError, Example
from tasks.source.formats import KNOWN_ADAPTERS, after_hashes
from tests.tiny import byte_tokenizer

ADAPTERS = {adapter.name: adapter for adapter in KNOWN_ADAPTERS}
CHAT = byte_tokenizer()
PLAIN = byte_tokenizer()
PLAIN.chat_template = None
TURNS = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]

SHAREGPT_TURNS = [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    ("name", "row", "example"),
    [
        ("gsm8k", {"question": "q", "answer": "way\n#### 42"}, Example("q", "way\n#### 42", final_answer="42")),
        ("gsm8k", {"question": "q", "answer": "no mark"}, Example("q", "no mark")),
        ("question_answer", {"question": "q", "answer": 42}, Example("q", "42", final_answer="42")),
        ("math", {"problem": "q", "solution": "way", "answer": "42"}, Example("q", "42", "way", "42")),
        ("math", {"problem": "q", "solution": "", "answer": "42"}, Example("q", "42", None, "42")),
        ("math", {"problem": "q", "solution": None, "answer": 42}, Example("q", "42", None, "42")),
        ("math", {"problem": "q", "answer": "42"}, Example("q", "42", None, "42")),
        ("math", {"problem": "q", "solution": r"\boxed{42}"}, Example("q", r"\boxed{42}", r"\boxed{42}", "42")),
        ("math", {"problem": "q", "solution": "way", "answer": None}, Example("q", "way", "way")),
        ("alpaca", {"instruction": "i", "input": "", "output": "o"}, Example("i", "o")),
        ("alpaca", {"instruction": "i", "input": None, "output": "o"}, Example("i", "o")),
        ("alpaca", {"instruction": "i", "output": "o"}, Example("i", "o")),
        ("alpaca", {"instruction": "i", "input": "in", "output": "o"}, Example("i\n\nin", "o")),
        ("sharegpt", {"conversations": SHAREGPT_TURNS}, Example("u", "a")),
        ("messages", {"messages": TURNS}, Example("u", "a")),
        ("prompt_completion", {"prompt": "p", "completion": "c"}, Example("p", "c")),
        ("prompt_completion", {"prompt": TURNS[:1], "completion": TURNS[1:]}, Example("u", "a")),
        ("text", {"text": "t"}, Example("t")),
    ],
)  # fmt: skip
def test_a_row_as_an_example(name: str, row: dict[str, Any], example: Example) -> None:
    assert ADAPTERS[name].example(row) == example


REQUIRED = [
    ("gsm8k", {"question": "q", "answer": "#### 1"}, ["question", "answer"]),
    ("question_answer", {"question": "q", "answer": "1"}, ["question", "answer"]),
    ("math", {"problem": "q", "solution": "s"}, ["problem", "solution"]),
    ("alpaca", {"instruction": "i", "output": "o"}, ["instruction", "output"]),
    ("sharegpt", {"conversations": SHAREGPT_TURNS}, ["conversations"]),
    ("messages", {"messages": TURNS}, ["messages"]),
    ("prompt_completion", {"prompt": "p", "completion": "c"}, ["prompt", "completion"]),
    ("text", {"text": "t"}, ["text"]),
]


@pytest.mark.parametrize(
    ("name", "row", "column"), [(name, row, column) for name, row, columns in REQUIRED for column in columns]
)
def test_a_required_field_that_is_missing_null_empty_or_of_a_wrong_type(
    name: str, row: dict[str, Any], column: str
) -> None:
    turns = column in ("conversations", "messages")
    without = {key: value for key, value in row.items() if key != column}
    for broken, reason in [
        (without, "missing_field"),
        (row | {column: None}, "null_field"),
        (row | {column: [] if turns else " "}, "empty_field"),
        (row | {column: {"a": 1}}, "wrong_type"),
    ]:
        with pytest.raises(BadRowError, match=column) as caught:
            ADAPTERS[name].example(broken)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "missing_field"),
        ({"answer": None}, "null_field"),
        ({"answer": None, "solution": ""}, "null_field"),
        ({"answer": "", "solution": None}, "empty_field"),
        ({"answer": "1", "solution": 5}, "wrong_type"),
    ],
)
def test_math_needs_a_solution_or_an_answer(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRowError, match=r"answer|solution") as caught:
        ADAPTERS["math"].example({"problem": "p", **row})
    assert caught.value.reason == reason


def default_templates(name: str, tokenizer: Any, *, has_reference: bool = True) -> tuple[str, str]:
    prompts = ADAPTERS[name].default_prompts(tokenizer, tokenizer, has_reference=has_reference)
    assert prompts.theta is not None
    assert prompts.teacher is not None
    assert prompts.theta.style == prompts.teacher.style == ("chat" if tokenizer.chat_template else "plain")
    return prompts.theta.template, prompts.teacher.template


@pytest.mark.parametrize("name", ["gsm8k", "question_answer"])
def test_default_prompts_are_those_the_demo_models_were_trained_on(name: str) -> None:
    assert default_templates(name, CHAT) == ("{{ question }}", "{{ question }}\nHint: {{ answer }}")
    assert default_templates(name, PLAIN) == ("Q: {{ question }}\nA:", "Q: {{ question }}\nHint: {{ answer }}\nA:")


@pytest.mark.parametrize("name", ADAPTERS)
def test_default_prompts_show_the_reference_to_the_teacher_alone(name: str) -> None:
    for tokenizer in (CHAT, PLAIN):
        theta, teacher = default_templates(name, tokenizer)
        assert "answer" not in theta
        assert "answer" in teacher
        assert default_templates(name, tokenizer, has_reference=False) == (theta, theta)


def test_each_model_gets_the_style_its_tokenizer_has() -> None:
    prompts = ADAPTERS["gsm8k"].default_prompts(PLAIN, CHAT, has_reference=True)
    assert prompts.theta is not None
    assert prompts.teacher is not None
    assert (prompts.theta.style, prompts.teacher.style) == ("plain", "chat")


def test_every_column_that_may_hold_a_reference_is_hidden_from_theta() -> None:
    for adapter in KNOWN_ADAPTERS:
        assert adapter.hidden_fields >= {"answer", "solution", "final_answer", "output", "messages", "conversations"}
        assert not adapter.hidden_fields & {"question", "problem", "instruction", "input", "prompt", "text", "history"}


@pytest.mark.parametrize(
    ("solution", "final"),
    [("6*7=42\n#### 42", "42"), ("#### 1\n####  1,234 ", "1,234"), ("no mark", None), ("####", None), ("", None)],
)
def test_after_hashes(solution: str, final: str | None) -> None:
    assert after_hashes(solution) == final
