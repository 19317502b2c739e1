"""Tests of the columns beside a format's own: used in both prompts, refused by name, or told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampling.errors import SourceError, TemplateError
from tasks.config import PromptsConfig, SourceConfig
from tasks.source.example import BadRowError, Example
from tasks.source.formats import KNOWN_ADAPTERS
from tasks.source.rows import PreparedRow, SourceReport, prepare_rows
from tests.tiny import byte_tokenizer

ADAPTERS = {adapter.name: adapter for adapter in KNOWN_ADAPTERS}
TURNS = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
SYSTEM, USER, REPLY = ({"role": role, "content": role[0]} for role in ("system", "user", "assistant"))
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
ROWS: dict[str, dict[str, Any]] = {  # of each format, without companions
    "gsm8k": {"question": "u", "answer": "a"},
    "math": {"problem": "u", "solution": "a"},
    "alpaca": {"instruction": "u", "output": "a"},
    "sharegpt": {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
    "messages": {"messages": TURNS},
    "prompt_completion": {"prompt": "u", "completion": "a"},
    "preference": {"prompt": "u", "chosen": "a", "rejected": "b"},
    "prompt": {"prompt": "u", "answer": "a"},
}


@pytest.mark.parametrize("name", ROWS)
def test_companions_of_every_format(name: str) -> None:
    def example(**companions: Any) -> Example:
        return ADAPTERS[name].example(ROWS[name] | companions)

    for column in ("system", "system_prompt"):
        assert example(**{column: "s"}).history == (SYSTEM,)
        assert example(**{column: None}) == example(**{column: " "}) == example()
    assert example(history=[["u", "a"]]).history == (USER, REPLY)
    assert example(history=[USER, REPLY], system="s").history == (SYSTEM, USER, REPLY)
    assert example(tools=[TOOL]).tools == example(tools=json.dumps([TOOL])).tools == (TOOL,)
    unseen: dict[str, Any] = {"images": [b"x"], "image": {"bytes": b"x"}, "audio": "a.wav", "tool_calls": [{"x": 1}]}
    for column, value in unseen.items():
        with pytest.raises(BadRowError, match=f"'{column}' is filled, .*; to leave it out, name in source.columns"):
            example(**{column: value})
    broken: dict[str, Any] = {"system": 5, "tools": "f()", "history": [["u"]], "context": {"a": 1}}
    for column, value in broken.items():
        with pytest.raises(BadRowError, match=column):
            example(**{column: value})


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"sharegpt", "messages"}))
@pytest.mark.parametrize("column", ["context", "passage"])
def test_a_passage_stands_before_the_question(name: str, column: str) -> None:
    example = ADAPTERS[name].example
    assert example(ROWS[name] | {column: "p"}).question == "p\n\nu"
    assert example(ROWS[name] | {column: ["p", "q"]}).question == "p\n\nq\n\nu"
    assert example(ROWS[name] | {column: "u"}).question == "u"  # it is there already


def test_a_passage_that_no_turn_holds_is_refused() -> None:
    example = ADAPTERS["messages"].example
    assert example(ROWS["messages"] | {"context": "u"}) == Example("u", "a")
    with pytest.raises(BadRowError, match="'context' holds a passage that no turn holds"):
        example(ROWS["messages"] | {"context": "p"})


def test_two_system_messages_must_be_the_same() -> None:
    row = {"messages": [SYSTEM, *TURNS], "system": "s"}
    assert ADAPTERS["messages"].example(row).history == (SYSTEM,)
    with pytest.raises(BadRowError, match="'system' is not the system turn") as caught:
        ADAPTERS["messages"].example(row | {"system": "t"})
    assert caught.value.reason == "two_systems"


@pytest.mark.parametrize(
    ("name", "companions", "reason"),
    [
        ("prompt_completion", {"label": "good"}, "wrong_type"),
        ("text", {"role": "assistant"}, "no_user_turn"),
        ("text", {"role": "prompter", "parent_id": "m1"}, "no_user_turn"),
        ("gsm8k", {"choices": ["x"]}, "unused_column"),
        ("messages", {"options": ["u", "x"]}, "unused_column"),
    ],
)
def test_rows_that_are_refused(name: str, companions: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRowError) as caught:
        ADAPTERS[name].example({"text": "t"} | ROWS.get(name, {}) | companions)
    assert caught.value.reason == reason
    assert ADAPTERS["text"].example({"text": "t", "role": "prompter", "parent_id": None}) == Example("t")


# --- what the run says ---

CHAT = byte_tokenizer()
PLAIN = byte_tokenizer()
PLAIN.chat_template = None


def prepare(
    path: Path, *rows: dict[str, Any], tokenizer: Any = CHAT, prompts: dict[str, Any] | None = None, **source: Any
) -> tuple[SourceReport, list[PreparedRow]]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = PromptsConfig.model_validate(prompts or {})
    report, prepared = prepare_rows(SourceConfig(path=str(path), **source), config, tokenizer, tokenizer)
    return report, [row for row in prepared if isinstance(row, PreparedRow)]


def test_columns_that_no_prompt_is_made_of_are_told_once(tmp_path: Path) -> None:
    row = {"question": "u", "answer": "a", "level": 1, "topic": "t", "my score": 2}
    assert prepare(tmp_path / "a.jsonl", row)[0].notes == ("not used: level, topic, my score",)
    own = {
        "theta": {"template": "{{ topic }}: {{ question }}"},
        "teacher": {"template": "{{ my_score }} {{ question }}"},
    }
    assert prepare(tmp_path / "a.jsonl", row, prompts=own)[0].notes == ("not used: level",)
    mapped = prepare(tmp_path / "a.jsonl", row, columns={"question": "question"})[0]
    assert mapped.notes == ("not used: answer, level, topic, my score",)


@pytest.mark.parametrize("tokenizer", [CHAT, PLAIN])
def test_companions_stand_in_both_default_prompts(tmp_path: Path, tokenizer: Any) -> None:
    row = {
        "question": "QUESTION",
        "answer": "a",
        "system": "SYSTEM",
        "context": "CONTEXT",
        "history": [["PAST", "SAID"]],
    }
    report, (only,) = prepare(tmp_path / "a.jsonl", row, tokenizer=tokenizer)
    for prompt in (only.theta_prompt, only.teacher_prompt):
        places = [prompt.index(text) for text in ("SYSTEM", "PAST", "SAID", "CONTEXT", "QUESTION")]
        assert places == sorted(places)
    assert report.notes == ()


def test_a_plain_template_that_ignores_earlier_turns_is_told(tmp_path: Path) -> None:
    plain = {"style": "plain", "template": "Q: {{ question }}\nA:"}
    row = {"question": "u", "answer": "a", "system": "s", "tools": [TOOL]}
    report, _ = prepare(tmp_path / "a.jsonl", row, prompts={"theta": plain, "teacher": plain})
    assert report.notes == tuple(
        f"not used: the rows' {field}, which prompts.{model}.template does not name"
        for model in ("theta", "teacher") for field in ("history", "tools")
    )  # fmt: skip


@pytest.mark.parametrize("tokenizer", [CHAT, PLAIN])
def test_rows_without_a_reference_are_asked_without_one(tmp_path: Path, tokenizer: Any) -> None:
    """KTO's undesirable answers, conversations that end with the question, unanswerable questions among others."""
    sources: dict[str, list[dict[str, Any]]] = {
        "kto": [{"prompt": "p", "completion": "REFERENCE", "label": label} for label in (True, False)],
        "turns": [{"messages": turns} for turns in ([USER, REPLY | {"content": "REFERENCE"}], [USER])],
        "squad": [{"context": "c", "question": "q", "answers": {"text": texts}} for texts in (["REFERENCE"], [])],
        "prompt": [{"prompt": "p", "answer": answer} for answer in ("REFERENCE", "N/A")],
    }
    for name, rows in sources.items():
        _, (told, untold) = prepare(tmp_path / f"{name}.jsonl", *rows, tokenizer=tokenizer)
        assert "REFERENCE" in told.teacher_prompt
        assert untold.teacher_prompt == untold.theta_prompt == told.theta_prompt


def test_choices_that_the_question_holds_are_used() -> None:
    row = {"problem": "x (A) y (B) z", "answer": "A", "choices": {"text": ["y", "z"], "label": ["A", "B"]}}
    assert ADAPTERS["math"].example(row).question == row["problem"]


def test_an_answer_beside_a_conversation_is_hidden_from_theta(tmp_path: Path) -> None:
    row = {"messages": TURNS[:1], "ground_truth": "7"}
    own = {"theta": {"template": "{{ question }}\nThe answer is {{ ground_truth }}."}}
    with pytest.raises(TemplateError, match="names 'ground_truth', which holds the reference"):
        prepare(tmp_path / "a.jsonl", row, prompts=own)


def test_a_template_that_names_the_passage_gets_the_question_alone(tmp_path: Path) -> None:
    own = {"theta": {"template": "{{ context }} | {{ question }}"}}
    row = {"question": "QUESTION", "answer": "a", "context": "CONTEXT"}
    report, (only,) = prepare(tmp_path / "a.jsonl", row, prompts=own)
    assert only.theta_prompt == "<|user|>CONTEXT | QUESTION\n<|assistant|>"
    assert "CONTEXT\n\nQUESTION" in only.teacher_prompt
    assert report.notes == ()


def test_a_column_that_refuses_every_row_is_an_error_with_its_way_out(tmp_path: Path) -> None:
    row = {"question": "u", "answer": "a", "images": ["x.png"]}
    with pytest.raises(SourceError, match=r"'images' is filled.*name in source\.columns what is used"):
        prepare(tmp_path / "a.jsonl", row)
    _, rows = prepare(tmp_path / "a.jsonl", row, columns={"question": "question", "answer": "answer"})
    assert len(rows) == 1
