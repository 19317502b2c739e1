"""Grades of right, wrong and hostile final answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from validations.measure import correctness
from validations.measure.correctness import Grader

DATA = Path(__file__).parents[1] / "data"
POWER = "#### 9^{9^{9^{9}}}"  # days of multiplication


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(2) as made:
        yield made


RIGHT = [
    ("3 + 4 = <<3+4=7>>7\n#### 7", "7"),
    ("#### 7.0", "7"),
    ("#### 1,234", "1234"),
    ("#### 3,000", "3000 people"),
    ("#### $5.50", "5.5"),
    ("#### -3", "-3"),
    ("#### 7\n", "$7$"),
    ("**7**", "7"),
    ("So the total is \\$7.", "7"),
    ("so x=3", "3"),
    ("The answer is 18 dollars.", "18"),
    ("\\boxed{18}", "18 dollars"),
    ("answer is:\n42", "42"),
    ("The final answer is: $7$", "7"),
    ("The answer is $\\frac{1}{2}$.", "0.5"),
    ("\\boxed{\\frac12}", "\\frac{1}{2}"),
    ("50%", "1/2"),
    ("\\boxed{1}, \\boxed{2}", "1, 2"),
    ("#### x+y", "y+x"),
    ("\\boxed{(x+1)^2}", "x^2+2x+1"),
    ("\\boxed{5\\text{ cm}}", "5 cm"),
    ("the answer is 2xy", "2yx"),
    ("\\boxed{\\begin{pmatrix}1\\\\2\\end{pmatrix}}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
    ("The answer is not obvious.\nBut 3+4 = 7", "7"),
    ("She answered 20 questions in 1800 s\nSo it is 66", "66.0"),
    ("\ud800 nul \x00\n#### 7.0", "7"),
    ("The answer is Paris.", "Paris"),
    ("Yes.", "yes"),
    ("**Answer: (B) Paris**", "(B)"),
    ("Answer: B) 42", "B"),
    ("The answer is (B).", "B"),
    ("\\boxed{\\text{(B)}}", "B"),
]
WRONG = [
    ("3 + 4 = <<3+4=7>>7\n#### 8", "7"),
    ("the answer is 7. No, wait\n#### 8", "7"),
    ("#### .5", "5"),
    ("#### 7", "-7"),
    ("", "7"),
    ("no number", "7"),
    ("x²", "x2"),
    ("\\boxed{(x+1)^2}", "x^2+2x+2"),
    ("\\boxed{\\begin{pmatrix}1\\\\3\\end{pmatrix}}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
    ("Rome", "Paris"),
    ("Paris, then Rome", "Parisian"),
    ("March 25", "December 25"),
    ("Answer: A car", "A"),
    ("\\boxed{\\text{(C)}}", "B"),
    ("anything", ""),
]
HOSTILE = [
    "\\boxed{" + "(" * 1900 + "1" + ")" * 1900 + "}",
    "\\boxed{" * 500,
    "1" * 3999,
    "{" * 4000,
    "$" * 4000,
    "answer " * 570,
    "#### __import__('os').system('kill ' + str(__import__('os').getppid()))",
]


def test_right_and_wrong(grader: Grader) -> None:
    assert [pair for pair, grade in zip(RIGHT, grader.grade(RIGHT), strict=True) if grade is not True] == []
    assert [pair for pair, grade in zip(WRONG, grader.grade(WRONG), strict=True) if grade is not False] == []


def test_as_a_careful_human_grades(grader: Grader) -> None:
    """Pairs that were labelled by hand: no right answer is wrong here, no wrong one right."""
    pairs = [json.loads(line) for line in (DATA / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    grades = grader.grade([(pair["completion"], pair["final_answer"]) for pair in pairs])
    assert len(pairs) > 700
    assert [pair for pair, grade in zip(pairs, grades, strict=True) if grade is not pair["right"]] == []


def test_only_the_end_is_looked_at(grader: Grader) -> None:
    line = "and so on\n"
    assert grader.grade([("#### 7\n" + line * 1000, "7.0"), (line * 1000 + "#### 7", "7.0")]) == [False, True]


@pytest.mark.slow
def test_a_row_that_hangs_is_not_judged_and_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correctness, "WALL_TIME_S", 1.0)
    with Grader(1) as grader:
        assert grader.grade([("#### 14/2", "7")]) == [True]
        before = grader._workers[0].process
        assert before is not None
        begin = time.monotonic()
        assert grader.grade([(POWER, "7"), ("#### 16/2", "8"), (POWER, "7")]) == [None, True, None]
        after = grader._workers[0].process
        assert after is not None
        assert before.poll() is not None
        assert after.pid != before.pid
        spent = time.monotonic() - begin
        begin = time.monotonic()
        assert grader.grade([(POWER, "7")]) == [None]  # known
        assert time.monotonic() - begin < spent / 2


@pytest.mark.slow
def test_a_hostile_row_is_never_right(grader: Grader) -> None:
    grades = grader.grade([(completion, "7") for completion in HOSTILE])
    assert [completion for completion, grade in zip(HOSTILE, grades, strict=True) if grade] == []
    assert grader.grade([("#### 5.0", "5")] * 2) == [True, True]  # the processes still work


@pytest.mark.slow
def test_the_kernel_ends_a_row_when_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correctness, "WALL_TIME_S", 500.0)
    with Grader(1) as grader:
        grader.grade([("#### 15/2", "7")])
        process = grader._workers[0].process
        assert process is not None
        assert grader.grade([(POWER, "7")]) == [None]
    assert process.returncode == -signal.SIGXCPU


def test_memory_is_bounded() -> None:
    with Grader(1) as grader:
        grader.grade([("#### 15/2", "7")])
        process = grader._workers[0].process
        assert process is not None
        (line,) = [
            line for line in Path(f"/proc/{process.pid}/limits").read_text().splitlines() if "address space" in line
        ]
    assert line.split()[3:5] == [str(correctness.MEMORY_BYTES)] * 2


@pytest.mark.slow
def test_time_is_bounded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correctness, "WALL_TIME_S", 0.5)
    with Grader(1, max_time_s=0.2) as grader:
        pairs = [(f"{POWER}+{number}", "7") for number in range(50)]
        begin = time.monotonic()
        assert grader.grade(pairs) == [None] * 50
        assert time.monotonic() - begin < 60  # one row and a worker's start, not 50
        assert grader.grade([("#### 18/2", "9"), ("#### 9.0", "9")]) == [None, None]


def test_no_process_is_left_and_none_starts_for_texts() -> None:
    with Grader(1) as grader:
        assert grader.grade([("#### 7.0", "7"), ("#### 8", "7"), ("Paris", "Rome")]) == [True, False, False]
        assert grader._workers[0].process is None
        grader.grade([("#### 14/2", "7")])
        process = grader._workers[0].process
        assert process is not None
    assert process.poll() is not None


def test_a_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Grader(1) as grader, pytest.raises(RuntimeError, match=r"did not start.*math_verify"):
        grader.grade([("#### 14/2", "7")])


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced() -> None:
    with Grader(1) as grader:
        grader.grade([("#### 14/2", "7")])
        grader._workers[0].kill()
        grades = grader.grade([("#### 71/10", "7"), ("#### 72/10", "7.2")])
        assert grades[0] in (None, False)
        assert grades[1] is True


def test_from_a_thread(grader: Grader) -> None:
    grades: list[bool | None] = []
    thread = threading.Thread(target=lambda: grades.extend(grader.grade([("#### 22/2", "11"), ("#### 24/2", "11")])))
    thread.start()
    thread.join()
    assert grades == [True, False]


SCRIPT = """
from validations.measure.correctness import Grader
with Grader() as grader:
    print(grader.grade([("#### 14/2", "7"), ("#### 16/2", "7")]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("as_file", [True, False])
def test_from_a_script_without_a_guard(tmp_path: Path, as_file: bool) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, *((str(tmp_path / "script.py"),) if as_file else ("-c", SCRIPT))]
    root = str(Path(correctness.__file__).parents[2])
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[True, False]\n", "")


COPY = """
import sys
sys.path.insert(0, sys.argv[1])
from validations.measure.correctness import Grader
with Grader(1) as grader:
    print(grader.grade([("#### 16/2", "7"), ("#### 14/2", "7")]))
"""


@pytest.mark.slow
def test_a_child_finds_the_package_where_its_parent_did(tmp_path: Path) -> None:
    """The script puts a copy, in which 16/2 alone is right, on its own path."""
    copy, other = tmp_path / "copy" / "validations", tmp_path / "work" / "validations"
    shutil.copytree(Path(correctness.__file__).parents[1], copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "text" / "mathematics.py").open("a") as file:
        file.write("\nComparison.is_right = lambda self, given, is_marked, answer: given == '16/2'\n")
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise SystemExit('the wrong package')")
    done = subprocess.run(
        [sys.executable, "-c", COPY, str(copy.parent)], cwd=other.parent, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[True, False]\n", "")
