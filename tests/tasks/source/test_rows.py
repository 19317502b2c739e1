"""Tests of prepared rows: prompts, ids, quarantine, start-up checks."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampling.errors import SourceError, TemplateError
from tasks.config import PromptsConfig, SourceConfig
from tasks.source.example import BadRowError, Example
from tasks.source.rows import PreparedRow, QuarantinedRow, SourceReport, _digest, prepare_rows
from tasks.source.source_row import content_of
from tests.tiny import EOS, byte_tokenizer

CHAT = byte_tokenizer()
PLAIN = byte_tokenizer()
PLAIN.chat_template = None
GSM8K = {"question": "Ana has 48/2 clips. How many?", "answer": "48/2 = <<48/2=24>>24\n#### 24"}
PLAIN_PROMPTS = {
    "teacher": {"style": "plain", "template": "Q: {{ question }}\nHint: {{ answer }}\nA:"},
    "theta": {"style": "plain", "template": "Q: {{ question }}\nA:"},
}
SHARED_DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


def prepare(
    path: Path | str, prompts: dict[str, Any] | None = None, tokenizer: Any = CHAT, **source: Any
) -> tuple[SourceReport, list[PreparedRow | QuarantinedRow]]:
    report, rows = prepare_rows(
        SourceConfig(path=str(path), **source), PromptsConfig.model_validate(prompts or {}), tokenizer, tokenizer
    )
    return report, list(rows)


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def prepared(rows: list[PreparedRow | QuarantinedRow]) -> list[PreparedRow]:
    return [row for row in rows if isinstance(row, PreparedRow)]


def quarantined(rows: list[PreparedRow | QuarantinedRow]) -> list[QuarantinedRow]:
    return [row for row in rows if isinstance(row, QuarantinedRow)]


def test_plain_prompts(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", GSM8K)
    report, rows = prepare(path, PLAIN_PROMPTS)
    assert (report.adapter, report.columns, report.files) == ("gsm8k", ("question", "answer"), (str(path),))
    assert report.prompts == PromptsConfig.model_validate(PLAIN_PROMPTS)
    assert rows == [
        PreparedRow(
            id=_digest(content_of(GSM8K)).hex(),
            fields=GSM8K,
            theta_prompt=f"Q: {GSM8K['question']}\nA:",
            teacher_prompt=f"Q: {GSM8K['question']}\nHint: {GSM8K['answer']}\nA:",
            theta_prompt_ids=PLAIN.encode(f"Q: {GSM8K['question']}\nA:"),
            teacher_prompt_ids=PLAIN.encode(f"Q: {GSM8K['question']}\nHint: {GSM8K['answer']}\nA:"),
            messages=[{"role": "user", "content": GSM8K["question"]}],
            example=Example(GSM8K["question"], GSM8K["answer"], final_answer="24"),
        )
    ]


def test_the_default_prompts_are_the_adapters(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", GSM8K)
    report, rows = prepare(path)
    assert report.prompts == PromptsConfig.model_validate(
        {"theta": {"template": "{{ question }}"}, "teacher": {"template": "{{ question }}\nHint: {{ answer }}"}}
    )
    (row,) = prepared(rows)
    assert row.theta_prompt == f"<|user|>{GSM8K['question']}\n<|assistant|>"
    assert row.teacher_prompt == f"<|user|>{GSM8K['question']}\nHint: {GSM8K['answer']}\n<|assistant|>"
    assert prepare(path, PLAIN_PROMPTS, PLAIN) == prepare(path, None, PLAIN)  # no chat template: plain by default
    only_theta = {"theta": {"template": "{{ question }}!", "system": "s"}}
    report, rows = prepare(path, only_theta)
    assert report.prompts.teacher is not None
    assert report.prompts.teacher.template == "{{ question }}\nHint: {{ answer }}"
    assert prepared(rows)[0].messages == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": GSM8K["question"] + "!"},
    ]


CONVERSATION = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": f"Who are you?{EOS}"},
    {"role": "assistant", "content": "SECRET"},
]


@pytest.mark.parametrize("tokenizer", [CHAT, PLAIN])
def test_a_conversation_keeps_its_turns(tmp_path: Path, tokenizer: Any) -> None:
    _, rows = prepare(write_lines(tmp_path / "a.jsonl", {"messages": CONVERSATION}), None, tokenizer)
    (row,) = prepared(rows)
    question = "Who are you?< |endoftext|>"
    assert row.messages == [*CONVERSATION[:3], {"role": "user", "content": question}]
    assert row.theta_prompt == (
        f"<|system|>Be kind.\n<|user|>Hi\n<|assistant|>Hello\n<|user|>{question}\n<|assistant|>"
        if tokenizer is CHAT
        else f"Be kind.\nQ: Hi\nA: Hello\nQ: {question}\nA:"
    )
    assert "SECRET" in row.teacher_prompt
    assert "SECRET" not in row.theta_prompt


def test_a_source_without_reference_shows_both_models_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    report, rows = prepare(tmp_path / "a.txt")
    assert report.adapter == "text"
    assert report.prompts.theta == report.prompts.teacher
    assert [(row.theta_prompt, row.fields) for row in prepared(rows)] == [
        (f"<|user|>{text}\n<|assistant|>", {"text": text}) for text in ("one", "two")
    ]
    assert all(row.theta_prompt == row.teacher_prompt for row in prepared(rows))


# --- identity ---


def test_equal_rows_get_numbered_ids(tmp_path: Path) -> None:
    other = {"question": "2+2?", "answer": "#### 4"}
    turned = dict(reversed(GSM8K.items())) | {"extra": None}  # the same content
    _, rows = prepare(write_lines(tmp_path / "a.jsonl", GSM8K, other, turned, GSM8K))
    first, second, third, fourth = (row.id for row in prepared(rows))
    assert (third, fourth) == (f"{first}-1", f"{first}-2")
    assert len({first, second}) == 2
    assert len(first) == 32
    assert prepared(rows)[2].fields == turned


def test_the_id_depends_on_the_content_alone(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "a.jsonl", GSM8K)
    (tmp_path / "b.json").write_text(json.dumps([GSM8K], indent=2))
    assert prepared(prepare(lines)[1])[0].id == prepared(prepare(tmp_path / "b.json")[1])[0].id


FIELDS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2))


@settings(max_examples=40)
@given(FIELDS, FIELDS)
def test_different_content_has_a_different_digest(first: dict[str, Any], second: dict[str, Any]) -> None:
    """16 bytes of BLAKE2b: two of them collide with a chance of 2**-128."""
    assert (content_of(first) == content_of(second)) == (first == second)
    assert content_of(dict(reversed(first.items()))) == content_of(first)


# --- bad input ---


@pytest.mark.parametrize(
    ("broken", "reason", "has_id"),
    [
        (b'{"question": "cut', "not_json", False),
        (b'{"question": "\xff", "answer": "1"}', "not_utf8", False),
        (rb'{"question": "\ud800", "answer": "1"}', "not_utf8", False),
        (b"[1]", "not_an_object", False),
        ({"question": "q"}, "missing_field", True),
        ({"question": "q", "answer": None}, "null_field", True),
        ({"question": "  ", "answer": "1"}, "empty_field", True),
        ({"question": {"a": 1}, "answer": "1"}, "wrong_type", True),
    ],
)
def test_a_broken_row_is_quarantined_alone(tmp_path: Path, broken: Any, reason: str, has_id: bool) -> None:
    path = write_lines(tmp_path / "a.jsonl", GSM8K, broken, GSM8K)
    _, rows = prepare(path)
    assert [type(row) for row in rows] == [PreparedRow, QuarantinedRow, PreparedRow]
    (row,) = quarantined(rows)
    assert (row.row, row.reason, row.id is not None) == (f"{path}:2", reason, has_id)
    assert row.detail


def test_a_bad_byte_in_csv_or_json_costs_its_row_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"question,answer\ngood,1\n\xff,2\n")
    (tmp_path / "a.json").write_bytes(b'[{"question": "good", "answer": "1"}, {"question": "\xff", "answer": "2"}]')
    for name, location in (("a.csv", "a.csv:3"), ("a.json", "a.json:2")):
        _, rows = prepare(tmp_path / name)
        assert len(prepared(rows)) == 1
        assert [(row.row, row.reason) for row in quarantined(rows)] == [(str(tmp_path / location), "not_utf8")]


def test_a_row_that_its_template_cannot_render(tmp_path: Path) -> None:
    full = GSM8K | {"note": "n"}
    path = write_lines(tmp_path / "a.jsonl", full, GSM8K, full | {"note": None}, full | {"note": " ", "question": "?"})
    theta = {"theta": {"style": "plain", "template": "{{ note }}"}}
    _, rows = prepare(path, theta)
    assert [row.reason for row in quarantined(rows)] == ["missing_field", "missing_field", "empty_prompt"]
    assert "prompts.theta.template needs a field that is missing or null: 'note'" in quarantined(rows)[0].detail
    assert len(prepared(rows)) == 1


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"theta": {"template": "{{ question }} {{ answer }}"}}, r"prompts\.theta\.template names 'answer', which"),
        ({"theta": {"template": "{{ final_answer }}"}}, "names 'final_answer', which holds the reference"),
        ({"teacher": {"template": "{{ qestion }}"}}, r"'qestion' is undefined; there are: answer, final_answer"),
        ({"teacher": {"template": "{{ question"}}, r"prompts\.teacher\.template is no Jinja template: line 1"),
        ({"teacher": {"template": "{{ question.__class__ }}"}}, "cannot be rendered: SecurityError"),
    ],
)
def test_a_bad_template_is_refused_before_sampling(tmp_path: Path, prompts: dict[str, Any], message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        prepare(write_lines(tmp_path / "a.jsonl", GSM8K, GSM8K), prompts)
    assert "\n" not in str(caught.value)


def test_raw_columns_with_the_reference_are_hidden_from_theta(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"messages": CONVERSATION, "topic": "x"})
    with pytest.raises(TemplateError, match="names 'messages'"):
        prepare(path, {"theta": {"template": "{{ messages[-1].content }}"}})
    _, rows = prepare(path, {"theta": {"template": "{{ topic }}: {{ question }}"}})
    assert prepared(rows)[0].theta_prompt.endswith("x: Who are you?< |endoftext|>\n<|assistant|>")


def test_a_chat_template_that_refuses_every_row_is_refused_before_sampling(tmp_path: Path) -> None:
    strict = byte_tokenizer()
    strict.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}x"
    path = write_lines(tmp_path / "a.jsonl", GSM8K)
    assert len(prepare(path, tokenizer=strict)[1]) == 1
    with pytest.raises(TemplateError, match="the model's chat template refuses the row: no system role"):
        prepare(path, {"theta": {"template": "{{ question }}", "system": "s"}}, strict)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", r"the source is empty: no row in .*a\.jsonl"),
        ("a.csv", b"question,answer\n", "the source is empty"),
        ("a.json", b"[]", "the source is empty"),
        ("a.jsonl", b"{broken\n\xff\n", r"none of the first 2 rows of .* can be read; .*a\.jsonl:1: not_json: "),
        ("a.jsonl", b'{"a": 1, "b": 2}\n', "no known format; columns seen: a, b; formats known: multiple_choice"),
        (
            "a.jsonl",
            b'{"question": "q", "answer": null}\n' * 2,
            r"none of the first 2 rows can be used as question_answer; .*a\.jsonl:1: null_field: 'answer' is null",
        ),
    ],
)
def test_a_source_without_usable_rows_is_an_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        prepare(tmp_path / name)
    assert "\n" not in str(caught.value)


# --- streaming ---


def test_rows_are_prepared_lazily(tmp_path: Path) -> None:
    """The list is broken after 50,000 rows, which is not read before."""
    row = json.dumps(GSM8K)
    (tmp_path / "a.json").write_text(f"[{', '.join([row] * 50_000)}, broken")
    source = SourceConfig(path=str(tmp_path / "a.json"))
    _, rows = prepare_rows(source, PromptsConfig.model_validate(PLAIN_PROMPTS), PLAIN, PLAIN)
    assert all(isinstance(next(rows), PreparedRow) for _ in range(150))
    report, limited = prepare(tmp_path / "a.json", PLAIN_PROMPTS, PLAIN, limit=120)
    assert len(limited) == 120
    assert report.adapter == "gsm8k"


def test_a_truncated_file_is_an_error_during_iteration(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(f"[{', '.join([json.dumps(GSM8K)] * 200)}, broken")
    source = SourceConfig(path=str(tmp_path / "a.json"))
    _, rows = prepare_rows(source, PromptsConfig.model_validate(PLAIN_PROMPTS), PLAIN, PLAIN)
    assert len([next(rows) for _ in range(200)]) == 200
    with pytest.raises(SourceError, match="line 1: this is not JSON"):
        next(rows)


def test_the_limit_counts_broken_rows_too(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", b"broken", GSM8K, GSM8K)
    _, rows = prepare(path, limit=2)
    assert [type(row) for row in rows] == [QuarantinedRow, PreparedRow]


@pytest.mark.parametrize(
    ("adapter", "name", "row"),
    [
        ("gsm8k", "gsm8k-test.jsonl", GSM8K),
        ("sharegpt", "sharegpt-conversations.json", {"conversations": [{"from": "human", "value": "u"}]}),
    ],
)
def test_real_data(tmp_path: Path, adapter: str, name: str, row: dict[str, Any]) -> None:
    """Every row of the shared data sets; a stand-in of the same shape on a machine without them."""
    path = SHARED_DATA / name
    if not path.exists():
        path = write_lines(tmp_path / name, row)
    report, rows = prepare(path)
    assert report.adapter == adapter
    assert quarantined(rows) == []
    assert len({row.id for row in prepared(rows)}) == len(rows) >= 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [(b"raw", None), (date(2026, 1, 2), None), (object(), "wrong_type"), ("\ud800", "not_utf8")],
)
def test_values_that_json_lacks(value: Any, reason: str | None) -> None:
    if reason is None:
        assert len({content_of({"a": value}), content_of({"a": str(value)}), content_of({})}) == 3
    else:
        with pytest.raises(BadRowError) as caught:
            content_of({"a": value})
        assert caught.value.reason == reason


def test_nesting_too_deep_for_json() -> None:
    nest: list[Any] = []
    for _ in range(100_000):
        nest = [nest]
    with pytest.raises(BadRowError, match="nests too many"):
        content_of({"a": nest})
