"""Final answers, extracted from completions and compared as text."""

from __future__ import annotations

import pytest

from validations.measure.answers import MAX_CHARS, final_answer, formula, is_mathematics, same_text, tail


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a \\boxed{1} b \\boxed{\\frac{1}{2}} c", ("\\frac{1}{2}", "a \\boxed{1} b \\boxed{\\frac{1}{2}} c")),
        ("#### 3\nanswer: 4", ("4", "4")),
        ("the answers 1\n2", ("2", None)),
        ("\\boxed{1", ("\\boxed{1", None)),
        ("", ("", None)),
    ],
)
def test_final_answer(text: str, expected: tuple[str, str | None]) -> None:
    assert final_answer(text) == expected


def test_what_is_mathematics() -> None:
    yes = ["7", "-3", "x+y", "2xy", "\\pi", "\\sqrt{ab}", "\\sin x", "sqrt(2)", "18 dollars", "(1,2)", "50%", "$7$"]
    no = ["Paris", "B", "(B)", "yes", "", "December 25th of 1990", "\\text{Evelyn}", "1" * 1001]
    assert [text for text in yes if not is_mathematics(text)] == []
    assert [text for text in no if is_mathematics(text)] == []


def test_same_text() -> None:
    assert same_text("It is\n(b)", "B")
    assert not same_text("It is\nB or C", "B")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("18 dollars", "18"), ("$\\frac{1}{2}$", "\\frac{1}{2}"), ("5\\text{ cm}", "5"), ("**x + y**.", "x + y")],
)
def test_formula(answer: str, expected: str) -> None:
    assert formula(answer) == expected


def test_tail_begins_with_a_line() -> None:
    assert tail(" 1\n2 ") == "1\n2"
    assert tail("x" * 10 + "\n" + "y" * (MAX_CHARS - 1)) == "y" * (MAX_CHARS - 1)
    assert tail("$" * MAX_CHARS + "x\ny") == "y"
    assert tail("x" * (MAX_CHARS + 1)) == "x" * MAX_CHARS
