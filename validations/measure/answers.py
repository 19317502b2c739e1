"""Extraction of the final answer from a completion."""

from __future__ import annotations

import re
import unicodedata

# A final answer is at the end; every formula of a long derivation would be parsed as a candidate, 20-180 ms each.
MAX_CHARS = 4_000
MAX_ANSWER_CHARS = 1_000

MARKER = re.compile(r"(?:####|\banswer\b(?:\s+is\b|\s*[:=]))[\s:*]*([^\n]*)", re.IGNORECASE)
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")  # shorter ones are products: 2xy, or functions: sin
ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}")
TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|operatorname|mbox)\s*\{([^{}]*)\}")
QUANTITY = re.compile(r"([-+]?[\d.,/]+)\s+([^\W\d_]+\.?)")
MATHEMATICS = re.compile(r"\d|\\[A-Za-z]|[-+*/^=<>]|π|∞|√")
FUNCTIONS = frozenset(("sinh", "cosh", "tanh", "sqrt", "arcsin", "arccos", "arctan"))
PAIRS = frozenset(("()", "[]", "**", "``", "''", '""', "“”", "‘’"))


def same_text(completion: str, answer: str) -> bool:
    """Return whether the completion's final answer equals this one as text.

    White space, brackets, quotes, `$`, `**` around it and `\\text{…}` are ignored. An answer that is not mathematics
    is compared case-insensitively, and a remark may follow it: `B) 42`, `Paris, of course`.
    """
    given = final_answer(completion)[0]
    if is_mathematics(answer):
        return _plain(given) == _plain(answer)
    expected, given = _folded(answer), _folded(given)
    return bool(expected) and given.startswith(expected) and given[len(expected) :][:1] in ("", *".,;:)")


def final_answer(completion: str) -> tuple[str, str | None]:
    """Return a completion's final answer, and its line from the marker on, or None where nothing marks it.

    It is the last `\\boxed{…}`, else what follows the last `####`, `answer is` or `answer:`, else the last line.
    """
    if (boxed := last_boxed(completion)) is not None:
        begin, end = boxed
        return completion[begin:end], completion[completion.rfind("\n", 0, begin) + 1 :].partition("\n")[0]
    marks = list(MARKER.finditer(completion))
    if marks:
        return marks[-1][1].strip(), marks[-1][1]
    return completion.rstrip().rpartition("\n")[2], None


def is_mathematics(answer: str) -> bool:
    """Return whether math-verify can compare it: it holds a number, a command or an operator, but no word.

    A number with one word after it (`18 dollars`) counts as its number. Sympy would read text as a product of
    symbols; a single letter is a choice (`B`), or a variable, for which comparing texts is enough.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return False
    text = ENVIRONMENT.sub("", _plain(answer))
    if QUANTITY.fullmatch(text):
        return True
    return MATHEMATICS.search(text) is not None and FUNCTIONS.issuperset(WORD.findall(text))


def formula(answer: str) -> str:
    """Return the part of a mathematical answer to parse: a quantity's number, else all but its delimiters."""
    text = _plain(answer)
    quantity = QUANTITY.fullmatch(text)
    return quantity[1] if quantity else text


def tail(completion: str) -> str:
    """Return the last MAX_CHARS characters from a line's start on: half a formula would be parsed as another."""
    tail = completion[-MAX_CHARS:].strip()
    return tail if len(completion) <= MAX_CHARS else tail.partition("\n")[2] or tail


def _plain(text: str) -> str:
    """Return a text without delimiters around it; case and superscripts are kept: they are mathematics."""
    text = " ".join(TEXT_COMMAND.sub(r"\1", text).split())
    while text:
        bare = text.strip("$ ").removesuffix(".").removeprefix("\\$").removesuffix("\\$")
        if len(bare) > 1 and bare[0] + bare[-1] in PAIRS and not set("()[],").intersection(bare[1:-1]):
            bare = bare[1:-1].strip()
        if bare == text:
            break
        text = bare
    return text


def _folded(text: str) -> str:
    text = _plain(unicodedata.normalize("NFKC", text)).casefold()
    # A choice with its text: (B) Paris.
    return text[1:] if text[:1] in ("(", "[") and text[2:3] in (")", "]") else text


def last_boxed(text: str) -> tuple[int, int] | None:
    """Return where the content of the last box begins and ends; None without one, or where its end is cut off."""
    begin = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if begin < 0:
        return None
    begin = text.index("{", begin) + 1
    depth = 1
    for index in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return begin, index
    return None
