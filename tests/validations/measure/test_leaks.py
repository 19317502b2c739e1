"""Leaks: references in theta's prompt that its template put there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.validations.tables import facts, made_row, to_table
from validations.measure.leaks import CLEAN, LeakCount, contains_reference, singles_out
from validations.measure.metadata import DatasetMetadata
from validations.measure.prompts import PromptMetrics, judge_prompts

Row = dict[str, Any]


CONTAINED = [
    ("3", "3"), ("3", "(3)"), ("3", "It is 3."), ("3", "3, 4"), ("3", "1, 3"), ("3", "He left. 3 came"),
    ("3", "13 but 3"), ("3,000", "3,000 apples"), ("-3", "is -3"), (".5", "is .5"), ("yes", "Yes or yes?"),
    ("  3 ", "it is 3"), ("two words", "two\n  words"), ("$\\frac{1}{2}$", "so $\\frac{1}{2}$."), ("x^2", "x^2+1"),
    ("é", "l’é!"), ("3", "答案是3。"), ("东京", "答案是东京吗"), ("서울", "정답은 서울입니다"), ("🙂", "a🙂b"),
    ("the answer is forty two", "so the  answer\nis forty two!"), ("a" * 16, "b" + "a" * 16 + "b"),
    ("1200", "is 1,200."), ("1,200", "is 1200"), ("7.0", "is 7"), ("7", "is 7.0"), ("PARIS", "in Paris"),
    ("1200", "is 1\\,200"), ("In THE city of Paris", "in the city of PARIS"),
]  # fmt: skip
NOT_CONTAINED = [
    ("3", "13"), ("3", "31"), ("3", "3.5"), ("3", "1.3"), ("3", "3,000"), ("000", "3,000"), ("3", "of .3"),
    ("3", ".3"), ("3", "x3"), ("3", "3x"), ("3", "_3"), ("yes", "yesterday"), ("yes", "eyes"), ("A", "a plum"),
    ("", "any"), ("  \n", "any"), ("3", ""), ("é", "café"), ("two words", "two wordsmiths"),
    ("the answer is forty two", "the answer is forty three"), ("a" * 16, "a" * 15),
]  # fmt: skip


def test_contains_reference() -> None:
    assert [pair for pair in CONTAINED if not contains_reference(*pair)] == []
    assert [pair for pair in NOT_CONTAINED if contains_reference(*pair)] == []


def num_leaks(metrics: PromptMetrics, *more: PromptMetrics) -> int:
    count = LeakCount()
    for found in (metrics, *more):
        assert found.frames is not None
        assert found.leaked is not None
        count.add(found.frames, found.leaked)
    return count.num_leaks()


def leaks(template: Callable[[Row], str], answers: Sequence[str], **example: Any) -> int:
    """Return how many rows leak, with prompts that `template` renders from (question, final_answer)."""
    rows = []
    for i, answer in enumerate(answers):
        row = made_row(i)
        values = {"question": f"Which one is number {i + 100}?", "answer": None, "solution": None}
        row["example"] = {**values, "final_answer": answer, **example}
        row["theta_prompt"], row["messages"] = template(row["example"]), []
        rows.append(row)
    return num_leaks(judge_prompts(to_table(rows), DatasetMetadata()))


ABCD = ["A", "B", "C", "D"] * 5


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("Think in 3 steps.\n{}", ["3", "4", "55"]),
        ("{}\nAnswer with A, B, C or D.", ABCD),
        ("Today is 21 Nov 2026.\n{}", ["21", "2026", "7", "Nov"]),
        ("{}\nSay yes or no.", ["yes", "no", "no"]),
        ("{}", ABCD),
        ("{}\nPut the number in \\boxed{{}}.", ["\\boxed{}", "1"]),
    ],
)
def test_a_template_that_holds_an_answer_by_chance_is_excused(text: str, answers: list[str]) -> None:
    assert leaks(lambda row: text.format(row["question"]), answers) == 0


@pytest.mark.parametrize(
    ("text", "answers", "num"),
    [
        ("{}\nThe answer is {}.", ["3", "4", "55"], 3),
        ("Think in 3 steps. {}\nHint: {}", ["3", "4", "55"], 3),
        ("{}\nAnswer with A, B, C or D. (It is {}.)", ABCD, 20),
        ("{}{}", ["\n3", "\n4"], 2),
        ("{} 答案是{}。", ["东京", "3"], 2),
        ("{}\n{}", ["it is\nforty two of them", "so it is  fifty of them"], 2),
    ],
)
def test_an_answer_that_was_put_there_is_a_leak(text: str, answers: list[str], num: int) -> None:
    assert leaks(lambda row: text.format(row["question"], row["final_answer"]), answers) == num


def test_a_leak_of_some_rows() -> None:
    def template(row: Row) -> str:
        return row["question"] + (f" ({row['final_answer']})" if row["final_answer"] in "7 8" else " (in 3 steps)")

    assert leaks(template, ["3", "7", "4", "8", "3"]) == 2


@pytest.mark.parametrize("name", ["answer", "solution"])
def test_any_of_the_references_leaks(name: str) -> None:
    text = f"the {name} in full: because it is so"
    assert leaks(lambda row: f"{row['question']}\n{text}", ["1", "2"], **{name: text}) == 2


def test_the_question_that_holds_its_own_answer_is_excused() -> None:
    for question in ("Is it 3 or 4?", "Is it 3 or 4?\n\n", "Is <|im_start|> 3 or 4?"):
        assert leaks(lambda row: f"Solve: {row['question'].strip()}", ["3"], question=question) == 0
    assert leaks(lambda row: f"Solve: {row['question']} Not 4!", ["4"], question="Is it 3?") == 1


LISTED = [
    ("positive", "Is this review positive or negative?"), ("negative", "Is this review positive or negative?"),
    ("neutral", "Say positive, neutral or negative."), ("B", "Answer with A, B, C or D."), ("D", "A, B, C, or D"),
    ("yes", "(yes/no)"), ("no", "(yes/no)"), ("spam", 'Labels: "spam", "ham".'), ("ham", "one of [spam, ham]"),
    ("B", "Choose from A, B, C."), ("true", "true and false."), ("spam", "- spam\n- ham"), ("ham", "- spam\n- ham"),
    ("C", "A) chair\nB) plum\nC) brick"), ("plum", "A) chair\nB) plum\nC) brick"), ("entailment", "entailment|neutral"),
    ("B", "Options: (A), (B), (C)"),
]  # fmt: skip
SINGLED_OUT = [
    ("B", "The answer is B."), ("B", "A, B, C or D? It is B."), ("positive", "It is positive, so say so."),
    ("positive", "positive or negative? positive!"), ("Paris", "Hint: Paris"),
    ("Paris", "The answer is Paris, France."),
    ("7", "It is 7 and you should explain why."), ("B", "- B"), ("B", "The answer: B, because it is."),
]  # fmt: skip


def test_a_reference_among_others_is_not_singled_out() -> None:
    assert [pair for pair in LISTED if singles_out(*pair)] == []
    assert [pair for pair in SINGLED_OUT if not singles_out(*pair)] == []


def test_labels_that_the_template_names_are_none_however_the_rows_are_sorted() -> None:
    text = "Is this review positive or negative?\n{}"
    assert leaks(lambda row: text.format(row["question"]), ["positive"] * 6) == 0
    assert leaks(lambda row: text.format(row["question"]) + f"\nIt is {row['final_answer']}.", ["positive"] * 6) == 6


def test_a_letter_that_the_question_holds_leaks_where_it_is_singled_out() -> None:
    question = "Which is a fruit?\nA) chair\nB) plum\nC) brick\nD) wire"
    assert leaks(lambda row: f"{row['question']}\nThe answer is {row['final_answer']}.", ABCD, question=question) == 20
    assert leaks(lambda row: f"{row['question']}\nAnswer with a letter.", ABCD, question=question) == 0


def test_earlier_turns_that_hold_it_are_excused() -> None:
    def row_of(i: int, earlier: str) -> Row:
        row = made_row(i)
        turns = [{"role": "user", "content": f"Take {earlier}"}, {"role": "assistant", "content": None}]
        row["messages"] = [*turns, *row["messages"]]
        row["theta_prompt"] = row["theta_prompt"].replace(
            "<|user|>", f"<|user|>Take {earlier}\n<|assistant|>\n<|user|>"
        )
        return row

    own = [row_of(i, str(i + 1000)) for i in range(3)]  # made_row's answers
    assert num_leaks(judge_prompts(to_table(own), facts())) == 0
    for row in own:
        row["messages"] = row["messages"][2:]
    assert num_leaks(judge_prompts(to_table(own), facts())) == 3


def test_a_long_history_that_holds_it_is_excused() -> None:
    """Of each row's 200 earlier turns the last holds its answer."""
    rows = []
    for i in range(3):
        row = made_row(i)
        turns = [{"role": "user", "content": f"Turn {k} of {i}"} for k in range(200)]
        turns.append({"role": "user", "content": f"It is {i + 1000}"})
        row["messages"] = [*turns, *row["messages"]]
        row["theta_prompt"] = "\n".join(turn["content"] for turn in turns) + row["theta_prompt"]
        rows.append(row)
    assert num_leaks(judge_prompts(to_table(rows), facts())) == 0


def test_batches_count_as_one() -> None:
    """The row with the same frame and another answer may be in another batch."""
    count = LeakCount()
    assert count.num_leaks() == 0
    for frames, leaked in (([1, 2], [5, 6]), ([1, 3], [CLEAN, 7]), ([2, 3, 4], [6, 7, CLEAN])):
        count.add(np.array(frames), np.array(leaked))
    assert count.num_leaks() == 4  # frame 1 is excused; 2 twice, 3 twice
