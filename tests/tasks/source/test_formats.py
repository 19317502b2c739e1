"""Tests of every known format: examples, default prompts, broken rows."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest

from tasks.source.example import BadRowError, Example
from tasks.source.formats import KNOWN_ADAPTERS
from tests.tiny import byte_tokenizer

ADAPTERS = {adapter.name: adapter for adapter in KNOWN_ADAPTERS}
CHAT = byte_tokenizer()
PLAIN = byte_tokenizer()
PLAIN.chat_template = None
TURNS = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]

TWICE = r"first $\boxed{2}$ twice, so the sum is $\boxed 4$."
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
        ("gsm8k", {"question": "q", "answer": "#### Step 1\nway\n#### 42"}, Example(
            "q", "#### Step 1\nway\n#### 42", final_answer="42")),
        ("question_answer", {"question": "q", "answer": r"Hence $\boxed{7}$."}, Example(
            "q", r"Hence $\boxed{7}$.", final_answer="7")),
        ("question_answer", {"question": "q", "answer": Decimal("7.50")}, Example("q", "7.50", final_answer="7.50")),
        ("question_answer", {"question": "q", "answer": Decimal("1E+3")}, Example("q", "1000", final_answer="1000")),
        ("question_answer", {"question": "q", "response": "r"}, Example("q", "r", final_answer="r")),
        ("math", {"problem": "q", "solution": TWICE}, Example("q", TWICE, TWICE, "4")),
        ("math", {"problem": "q", "solution": "Even.", "answer": "proof"}, Example("q", "Even.", "Even.")),
        ("math", {"problem": "q", "solution": "See the figure.", "answer": "notfound"}, Example(
            "q", "See the figure.", "See the figure.")),
        ("math", {"problem": "q", "solution": TWICE, "answer": "N/A"}, Example("q", TWICE, TWICE, "4")),
        ("multiple_choice", {"question": "q?", "choices": ["x", "y"], "answer": 1}, Example(
            "q?\n\nA. x\nB. y", "B", final_answer="B")),
        ("multiple_choice", {"question": "q?", "options": ["x", "y"], "answer": "A", "answer_index": 0}, Example(
            "q?\n\nA. x\nB. y", "A", final_answer="A")),
        ("multiple_choice", {"question": "q?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
            Example("q?\n\nA. x\nB. y", "B", final_answer="B")),
        ("multiple_choice", {"question": "q?\n(A) x\n(B) y", "choices": ["x", "y"], "answer": "y"}, Example(
            "q?\n(A) x\n(B) y", "B", final_answer="B")),
        ("squad", {"context": "c", "question": "q", "answers": {"text": ["a", "b"]}}, Example(
            "c\n\nq", "a", final_answer="a")),
        ("squad", {"context": "c", "question": "q", "answers": {"text": []}}, Example("c\n\nq")),
        ("alpaca", {"instruction": "i", "context": "c", "response": "o"}, Example("c\n\ni", "o")),
        ("verl", {"prompt": TURNS[:1], "reward_model": {"style": "rule", "ground_truth": "7"},
                  "extra_info": {"index": 0, "answer": "4+3"}}, Example("u", "7", "4+3", "7")),
        ("preference", {"prompt": "u", "chosen": "a", "rejected": "b"}, Example("u", "a")),
        ("preference", {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": TURNS[1:]}, Example("u", "a")),
        ("preference", {"prompt": "u", "chosen": TURNS[1:], "rejected": TURNS[1:]}, Example("u", "a")),
        ("preference", {"prompt": "u", "chosen": TURNS, "rejected": TURNS}, Example("u", "a")),
        ("preference", {"chosen": TURNS, "rejected": TURNS}, Example("u", "a")),
        ("prompt_completion", {"prompt": "p", "completion": "c", "label": False}, Example("p")),
        ("prompt_completion", {"prompt": "p", "completion": "c", "label": True}, Example("p", "c")),
        ("prompt", {"prompt": TURNS[:1]}, Example("u")),
        ("prompt", {"prompt": "p", "ground_truth": "7"}, Example("p", "7", final_answer="7")),
        ("messages", {"messages": TURNS[:1], "ground_truth": "7"}, Example("u", "7", final_answer="7")),
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


@pytest.mark.parametrize("answer", [math.nan, Decimal("NaN"), "NaN", "null", " N/A ", "proof", "notfound"])
def test_a_placeholder_is_no_answer(answer: Any) -> None:
    for name, question in (("gsm8k", "question"), ("question_answer", "question"), ("math", "problem")):
        with pytest.raises(BadRowError, match="which is no answer") as caught:
            ADAPTERS[name].example({question: "q", "answer": answer})
        assert caught.value.reason == "null_field"
    assert ADAPTERS["prompt"].example({"prompt": "p", "answer": answer}) == Example("p")


@pytest.mark.parametrize("answer", [2, -1, True, "C", "z", 0.5])
def test_an_answer_that_is_none_of_the_choices(answer: Any) -> None:
    with pytest.raises(BadRowError, match="none of the 2 choices") as caught:
        ADAPTERS["multiple_choice"].example({"question": "q", "choices": ["x", "y"], "answer": answer})
    assert caught.value.reason == "unknown_choice"


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
