"""Tests of the choice of an adapter: recognised, named, mapped or custom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampling.errors import SourceError
from tasks.config import SourceConfig
from tasks.source.example import BadRowError, Example
from tasks.source.recognition import choose_adapter


def choose(row: dict[str, Any], **config: Any) -> Any:
    return choose_adapter(SourceConfig(path="x", **config), list(row), [row])


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("gsm8k", {"question": "q", "answer": "way #### 1"}),
        ("question_answer", {"question": "q", "answer": "1", "text": "t"}),
        ("math", {"problem": "p", "solution": "s", "answer": "a"}),
        ("math", {"problem": "p", "level": "5", "type": "Algebra", "solution": "s"}),
        ("math", {"source": "x", "problem": "p", "solution": "s", "messages": []}),
        ("math", {"problem": "p", "answer": "a"}),
        ("alpaca", {"instruction": "i", "input": "", "output": "o", "text": "all of it"}),
        ("sharegpt", {"id": "x", "conversations": []}),
        ("messages", {"prompt": "p", "prompt_id": "x", "messages": []}),
        ("prompt_completion", {"prompt": "p", "completion": "c"}),
        ("text", {"text": "t", "meta": {}}),
        ("question_answer", {"question": "q", "answer": "#### Step 1\nadd\n#### Step 2\nthe sum is 3"}),
        ("question_answer", {"system_prompt": "s", "question": "q", "response": "r"}),
        ("multiple_choice", {"question": "q", "subject": "s", "choices": ["a", "b"], "answer": 1}),
        ("multiple_choice", {"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "A"}),
        ("squad", {"id": "1", "title": "t", "context": "c", "question": "q", "answers": {"text": []}}),
        ("alpaca", {"instruction": "i", "context": "", "response": "o", "category": "qa"}),
        ("verl", {"data_source": "d", "prompt": [], "ability": "math", "reward_model": {}, "extra_info": {}}),
        ("preference", {"prompt": "p", "chosen": "c", "rejected": "r"}),
        ("preference", {"chosen": [], "rejected": []}),
        ("prompt_completion", {"prompt": "p", "completion": "c", "label": True}),
        ("prompt", {"prompt": [], "answer": "1"}),
    ],
)
def test_formats_are_recognised_by_their_columns(name: str, row: dict[str, Any]) -> None:
    assert choose(row).name == name
    assert choose(row, adapter=name).name == name


def test_gsm8k_is_recognised_by_any_of_the_first_rows() -> None:
    rows: list[dict[str, Any]] = [{"question": "q", "answer": None}, {"question": "q", "answer": "#### 1"}]
    assert choose_adapter(SourceConfig(path="x"), ["question", "answer"], rows).name == "gsm8k"


def test_an_unknown_format_lists_what_was_seen_and_what_is_known() -> None:
    with pytest.raises(SourceError) as caught:
        choose({"a": 1, "b": 2})
    message = str(caught.value)
    assert "columns seen: a, b;" in message
    for known in ("gsm8k (answer, question)", "alpaca (instruction, output or ", "text (text)", "source.columns"):
        assert known in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"adapter": "gsm9k"}, "'gsm9k' is unknown; known: auto, multiple_choice"),
        (
            {"adapter": "alpaca"},
            "'alpaca' needs the columns instruction, output or instruction, response; columns seen: q, a",
        ),
        (
            {"adapter": "deepscaler"},
            "'deepscaler' needs the columns problem, solution or answer, problem; columns seen",
        ),
        ({"columns": {"question": "q", "reply": "a"}}, "maps reply; fields known: question, answer, solution"),
        ({"columns": {"answer": "a"}}, "must map question; columns seen: q, a"),
        ({"columns": {"question": "Q", "answer": "a"}}, "names Q; columns seen: q, a"),
        ({"columns": {"question": "q"}, "adapter": "text"}, "exclude each other; remove one"),
        ({"adapter": "no_such_module:X"}, "cannot be used: ModuleNotFoundError: No module named 'no_such_module'"),
        ({"adapter": "collections:NoSuch"}, "AttributeError: .*; it names a class made without arguments"),
        ({"adapter": "collections:OrderedDict"}, "AttributeError: .*reference_columns"),
    ],
)
def test_an_invalid_choice(config: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        choose({"q": "1+1?", "a": "2"}, **config)


def test_deepscaler_is_math() -> None:
    assert choose({"problem": "p", "solution": "s", "answer": "a"}, adapter="deepscaler").name == "math"


def test_mapped_paths_and_turns() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    row = {"prompt": turns, "reward_model": {"ground_truth": 7}, "extra_info": {"answer": "4+3", "tags": ["x", "y"]}}
    paths = {"question": "prompt", "answer": "reward_model.ground_truth", "solution": "extra_info.answer"}
    adapter = choose(row, columns=paths)
    assert adapter.example(row) == Example("u", "7", "4+3", history=(turns[0],))
    assert adapter.hidden_fields == {"answer", "solution", "final_answer", "prompt", "reward_model", "extra_info"}
    assert choose(row, columns={"question": "extra_info.tags.1"}).example(row) == Example("y")
    replied = {"question": [turns[1], {"role": "assistant", "content": "a"}]}
    mapped = choose(replied, columns={"question": "question"})
    assert mapped.example(replied) == Example("u", "a")
    assert "question" not in mapped.hidden_fields
    assert choose({"a.b": "q", "a": {"b": "x"}}, columns={"question": "a.b"}).example({"a.b": "q"}) == Example("q")
    for path, reason in [("reward_model.truth", "null_field"), ("extra_info.tags.2", "null_field")]:
        with pytest.raises(BadRowError, match=path) as caught:
            choose(row, columns={"question": "prompt", "answer": path}).example(row)
        assert caught.value.reason == reason
    with pytest.raises(SourceError, match=r"names reward\.truth; columns seen"):
        choose(row, columns={"question": "prompt", "answer": "reward.truth"})


def test_mapped_companions() -> None:
    row = {"q": "q", "sys": "s", "past": [["u", "a"]], "functions": [{"name": "f"}], "doc": "d", "image": "i"}
    columns = {"question": "q", "system": "sys", "history": "past", "tools": "functions", "context": "doc"}
    turns = (
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    )
    assert choose(row, columns=columns).example(row) == Example("d\n\nq", history=turns, tools=({"name": "f"},))
    assert choose(row, columns={"question": "q"}).example(row) == Example("q")  # the others are dropped, by the user


def test_mapped_columns() -> None:
    row = {"q": "1+1?", "a": 2, "way": "count", "f": ""}
    adapter = choose(row, columns={"question": "q", "answer": "a", "solution": "way", "final_answer": "f"})
    assert adapter.example(row) == Example("1+1?", "2", "count")
    assert adapter.hidden_fields == {"answer", "solution", "final_answer", "a", "way", "f"}
    with pytest.raises(BadRowError, match="'a' is null"):
        adapter.example(row | {"a": None})
    assert choose(row, columns={"question": "q", "solution": "way"}).example(row) == Example("1+1?", "count", "count")
    assert choose(row, columns={"question": "q"}).example(row) == Example("1+1?")


CUSTOM = """
from tasks.source.example import BadRowError, Example

class Riddles:
    reference_columns = ("reply",)

    def example(self, row):
        if row["riddle"] == "bad":
            raise BadRowError("too_hard", "nobody knows")
        if row["riddle"] == "list":
            return []
        return Example(question=row["riddle"], answer=row["reply"])
"""


def test_a_custom_class_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_riddles.py").write_text(CUSTOM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    adapter = choose({"riddle": "r", "reply": "a"}, adapter="own_riddles:Riddles")
    assert adapter.name == "own_riddles:Riddles"
    assert adapter.hidden_fields >= {"reply", "answer"}
    assert adapter.example({"riddle": "r", "reply": "a"}) == Example("r", "a")
    for riddle, reason in [("bad", "too_hard"), ("list", "adapter_failed"), (None, "adapter_failed")]:
        with pytest.raises(BadRowError) as caught:
            adapter.example({"riddle": riddle} if riddle else {})
        assert caught.value.reason == reason
