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
    for known in ("gsm8k (answer, question)", "alpaca (instruction, output)", "text (text)", "source.columns"):
        assert known in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"adapter": "gsm9k"}, "'gsm9k' is unknown; known: auto, gsm8k"),
        ({"adapter": "alpaca"}, "'alpaca' needs the columns instruction, output; columns seen: q, a"),
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
