"""Final answers, extracted from completions and compared as text."""

from __future__ import annotations

import pytest

from validations.measure.answers import (
    MAX_CHARS,
    final_answer,
    formula,
    is_mathematics,
    reference_answer,
    same_text,
    tail,
)


FINAL = [  # text, its final answer, whether it is marked
    ("a \\boxed{1} b \\boxed{\\frac{1}{2}} c", "\\frac{1}{2}", True),
    ("First $\\boxed{2}$ twice, so the sum is $\\boxed 4$.", "4", True),
    ("First $\\boxed{3}$ and then $\\boxed{5}$.", "3, 5", True),
    ("$x=\\boxed{3}$,\n$y=\\boxed{5}$", "3, 5", True),
    ("So $\\boxed {6}$.", "6", True),
    ("\\boxed{\\boxed{3}} a \\boxed{1\\}2}", "1\\}2", True),
    ("The answer is 7.\n\\boxed{", "7.", True),
    ("#### 3\nanswer: 4", "4", True),
    ("#### 1\n#### 2\n####", "2", True),
    ("#### Step 1\nadd\n#### Step 2\n9", "9", False),
    ("#### Final Answer\n7\n\nLet me know.", "7", True),
    ("<think>\\boxed{5}</think>7", "7", False),
    ("<think>\\boxed{5}", "", False),
    ("<answer>B</answer>\n<answer>", "B", True),
    ("The answer is not simple.\n9", "9", False),
    ("答案是 B", "B", True),
    ("the answers 1\n2", "2", False),
    ("\\boxed{1", "\\boxed{1", False),
    ("", "", False),
]


@pytest.mark.parametrize(("text", "answer", "is_marked"), FINAL)
def test_final_answer(text: str, answer: str, is_marked: bool) -> None:
    assert final_answer(text) == (answer, is_marked)


@pytest.mark.parametrize(
    ("text", "answer", "of_solution"),
    [
        ("Adding gives seven, hence $\\boxed{7}$.", "7", "7"),
        ("3 + 4 = 7\n#### 7", "7", "7"),
        ("Paris", "Paris", None),
        ("<think>\\boxed{5}</think> 7 ", "7", None),
        ("line\nline", "line\nline", None),
        *((text, None, None) for text in ("NaN", " null", "N/A", "proof", "notfound", "", "x" * 1001)),
    ],
)
def test_reference_answer(text: str, answer: str | None, of_solution: str | None) -> None:
    assert reference_answer(text) == answer
    assert reference_answer(text, is_solution=True) == of_solution


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
