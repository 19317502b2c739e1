"""Final answers, extracted from completions and compared as text."""

from __future__ import annotations

import pytest

from validations.measure.answers import MAX_CHARS, final_answer, reference_answer

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


def test_the_end_begins_with_a_line() -> None:
    assert final_answer("\\boxed{1}" + "\n" + "y" * (MAX_CHARS - 1)) == ("y" * (MAX_CHARS - 1), False)
    assert final_answer("\\boxed{" + "1" * MAX_CHARS + "}\n2") == ("2", False)
    assert final_answer("x" * (MAX_CHARS + 1)) == ("x" * MAX_CHARS, False)
