"""Traces of a teacher that was shown the answer."""

from __future__ import annotations

from difflib import SequenceMatcher

import numpy as np
import pyarrow as pa
import pytest

from validations.text.guidance import PHRASES, copied_words, count_doubts, privileged


def texts(*values: str) -> pa.Array:
    return pa.array(values, pa.large_string())


@pytest.mark.parametrize(
    ("text", "prompt", "expected"),
    [
        ("As given, the result is 7.", "", True),
        ("The hint says 7.", "", True),
        ("so the correct answer is stated as 7", "", True),
        ("ACCORDING TO THE SOLUTION we add.", "", True),
        ("Laut der Lösung ist es 7.", "", True),
        ("根据提示，答案是7。", "", True),
        ("Согласно подсказке, 7.", "", True),
        ("As given in the problem, Ann has 3 pens.", "", False),
        ("As given in the hint, Ann has 3 pens.", "", True),
        ("As given by the problem, and as given.", "", True),
        ("The hint says 7.", "Use what the hint says.", False),
        ("We add 3 and 4.", "", False),
        ("", "", False),
    ],
)
def test_a_phrase_that_the_prompt_does_not_hold_gives_away(text: str, prompt: str, expected: bool) -> None:
    assert privileged(texts("nothing", text), texts("", prompt), PHRASES).tolist() == [False, expected]


def test_no_phrases_find_nothing_and_none_is_a_pattern() -> None:
    assert privileged(texts("the hint says"), texts(""), []).tolist() == [False]
    assert privileged(texts("a+b", "aab"), texts("", ""), ["a+b"]).tolist() == [True, False]


def test_doubts_are_counted() -> None:
    given = ("Wait, maybe 7. Let me check: hmm, no.", "Weights await us.", "等等，也许是7。", "Может быть, 7?", "")
    assert count_doubts(texts(*given)).tolist() == [4, 0, 2, 1, 0]


def words(*numbers: int) -> str:
    return " ".join(f"w{number}" for number in numbers)


def test_copied_words_are_the_longest_common_run() -> None:
    solution = words(*range(40))
    given = {
        solution: 40,
        words(*range(5, 20)).upper().replace(" ", ", "): 15,
        words(*range(7)): 0,
        words(*range(8)): 8,
        words(*range(10), 99, *range(10, 30)): 20,
        words(*range(50, 90)): 0,
        "": 0,
    }
    found = copied_words(texts(*given), texts(*[solution] * 7), texts(*[""] * 7))
    assert found.tolist() == list(given.values())


def test_what_the_question_holds_is_not_copied() -> None:
    solution, question = words(*range(40)), words(*range(20))
    given = (question, words(*range(30)), solution)
    # 8-grams that reach beyond the question begin at word 13.
    assert copied_words(texts(*given), texts(*[solution] * 3), texts(*[question] * 3)).tolist() == [0, 17, 27]


def test_rows_do_not_run_into_each_other() -> None:
    solution = words(*range(20))
    assert (
        copied_words(texts(words(*range(6)), words(*range(6, 12))), texts(solution, solution), texts("", "")).max() == 0
    )
    assert copied_words(texts(words(*range(9)), "x"), texts("y z", solution), texts("", "")).max() == 0


def test_han_characters_are_words() -> None:
    solution = "小明有三支铅笔又买了四支所以一共有七支"
    assert copied_words(texts("因为" + solution[4:] + "。"), texts(solution), texts("")).tolist() == [len(solution) - 4]


def test_against_difflib() -> None:
    """Words of a small vocabulary; a run is at least 8 long, and the second finder takes quadratic time."""
    rng = np.random.default_rng(0)
    rows = [(rng.integers(0, 3, 60).tolist(), rng.integers(0, 3, 50).tolist()) for _ in range(40)]
    found = copied_words(texts(*(words(*a) for a, _ in rows)), texts(*(words(*b) for _, b in rows)), texts(*[""] * 40))
    for copied, (a, b) in zip(found.tolist(), rows, strict=True):
        longest = SequenceMatcher(None, a, b, autojunk=False).find_longest_match().size
        assert copied >= (longest if longest >= 8 else 0)  # runs at several places of the reference count as one
        assert (copied == 0) == (longest < 8)
