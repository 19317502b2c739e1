"""Hostile texts: what the gate does to a row takes time in proportion to the row's length."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.validations.made_up import MANIFEST, make_aggregates, make_verdict
from tests.validations.tables import facts, made_row, to_table, written
from validations.gate import Limits, judge
from validations.measure.answers import MAX_ANSWER_CHARS, final_answer, reference_answer
from validations.measure.correctness import Grader, _compared, _given
from validations.measure.leaks import contains_reference, singles_out
from validations.measure.prompts import judge_prompts
from validations.report.page import render_report
from validations.text.literals import same_text
from validations.text.notation import items, plain, quantity, rewritten

# Pieces that are repeated: what a quantifier takes, what it takes in vain, what unbalances, what normalises slowly.
PIECES = (
    " ", "\n", "\t ", "*", '"', "$.", "a$", "{", "}", "(", "[", "\\", "\\text{", "\\text ", "\\boxed{", "\\boxed ",
    "\\boxed{1}", "\\begin{", "1", "1,", "1,111", "1 111 ", "1.", "1/2 ", "1e1", "-", "####", "#### 1\n", "answer ",
    "answer: ", "answer\n", "answer (", "answer to ", "<answer>", "</answer>", "<think>", "</think>", "a", "A, ",
    "a or ", "a, b", "- a\n", "is ", "\u0301\u0323", "½", "²", "√", "√(", "中", "é", "million ", "%", "&", "a.m.",
    "2-1 ", "[a, ", "labels a", "ﷺ", "\u202e", "\x00", "😀", "1e300 ", "1e40 ", "1e-40,", "2E+9999 ", "9.9e39trillion ",
    "1 million ", "three million ", "1 1/2 ", "12½", "0.1\\overline{6} ", ".\\overline{1}", "5\\% ", "1\\,",
    "°", "∅", ", ", ". ",
)  # fmt: skip
LENGTH = 30_000  # characters, then twice as many
SLACK_S = 0.03


def seconds(work: Callable[[], Any], num_times: int = 3) -> float:
    """The shortest of some times."""
    times = []
    for _ in range(num_times):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def row_of(text: str) -> dict[str, Any]:
    """A row that consists of a text: its question, its references, its prompts, its history, its completion."""
    row = made_row(1)
    turns = [{"role": "user", "content": piece} for piece in (text[:1000] * 300, text, *text[:300])]
    question = {"role": "user", "content": text + "?"}
    prompts = {"theta_prompt": f"<|user|>{text}.\n\n{text}", "teacher_prompt": f"<|user|> {text} ?{text}"}
    example = {"question": text + "?", "answer": text[1:], "solution": text[2:] + "x", "final_answer": text[:15]}
    messages = [*turns, question, {"role": "assistant", "content": text}]
    return {**row, **prompts, "example": example, "completion": text, "messages": messages}


WORK: dict[str, Callable[[str], Any]] = {
    "final_answer": final_answer,
    "reference_answer": reference_answer,
    "grade_a_completion": lambda text: _compared(*_given(text, "seven 7")),
    "grade_by_a_reference": lambda text: _compared(*_given("The answer is 7.", text)),
    "contains_reference": lambda text: contains_reference(text[:15], text) or contains_reference(text + "x", text),
    "singles_out": lambda text: singles_out(text[:1], text) or singles_out(text[:9], text[:-9] + "x"),
    "judge_prompts": lambda text: judge_prompts(to_table([row_of(text)]), facts()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_time_grows_like_the_text(name: str) -> None:
    """Twice the text takes twice the time; of a quadratic loop it would take four times, seconds here."""
    slow = []
    for piece in PIECES:
        text = piece * (2 * LENGTH // len(piece))
        half, whole = (seconds(partial(WORK[name], text[:num])) for num in (LENGTH, 2 * LENGTH))
        if whole > 3 * half + SLACK_S:
            slow.append((piece, half, whole))
    assert slow == []


@pytest.mark.parametrize("piece", PIECES)
def test_an_answer_of_the_longest_length_is_read_in_no_time(piece: str) -> None:
    """What is compared is cut to MAX_ANSWER_CHARS, so that here the length is bounded, not the growth."""
    text = (piece * MAX_ANSWER_CHARS)[:MAX_ANSWER_CHARS]
    for read in (
        plain,
        rewritten,
        quantity,
        items,
        lambda text: same_text(text, text[1:]),
        lambda text: same_text("a", text),
    ):
        assert seconds(partial(read, text)) < 0.1
    assert len(rewritten(text)) <= 10 * MAX_ANSWER_CHARS  # `∅` as \\emptyset; a number is not written out at length


def test_answers_compared_as_text_count_against_the_time() -> None:
    """What takes 10 ms an answer takes minutes of 20,000 rows; after the time they are not judged."""
    pairs = [("7", f"{', ' * 450}{number}") for number in range(500)]
    with Grader(max_time_s=0.05) as grader:
        assert seconds(lambda: grader.grade(pairs), 1) < 1.0
        assert grader.grade([("7", "seven")]) == [None]


@pytest.mark.slow
def test_rows_of_megabytes_are_judged_in_seconds(tmp_path: Path) -> None:
    """Each takes 1.5 MB in its completion, question, answers and prompts."""
    rows = []
    for i, piece in enumerate(("*", "answer ", "\\boxed{", "$.", "\u0301\u0323", "1,111")):
        text = piece * (1_500_000 // len(piece))
        rows.append({**row_of(text), "id": str(i)})
        rows[-1]["example"]["final_answer"] = text
    files = written(tmp_path, to_table(rows))
    begin = time.monotonic()
    verdict = judge(files, Limits(), facts())
    assert time.monotonic() - begin < 60
    assert verdict.metrics["num_rows"] == len(rows)
    assert verdict.metrics["correct_rate"] == 0.0


@pytest.mark.slow
def test_a_page_of_long_texts_is_drawn_in_no_time() -> None:
    text = "<&\u202e" * 500_000
    aggregates = make_aggregates()
    samples = [replace(row, theta_prompt=text, completion=text, pieces=[text] * 3) for row in aggregates.samples]
    verdict = replace(make_verdict(), aggregates=replace(aggregates, samples=samples))
    quarantined = [{"row": 1, "detail": text}]
    assert seconds(lambda: render_report(text, verdict, {**MANIFEST, "name": text}, quarantined), 1) < 5
