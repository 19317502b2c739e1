"""Extraction of the final answer from a completion."""

from __future__ import annotations

import re
import unicodedata

# A final answer is at the end; every formula of a long derivation would be parsed as a candidate, 20-180 ms each.
MAX_CHARS = 4_000
MAX_ANSWER_CHARS = 1_000
MAX_REFERENCE_CHARS = 100_000  # of a source's solution: 0.2 s at worst

# The words before an answer in several languages, then a verb, a colon, or the line's end (a heading, bold).
_WORDS = r"\b(?:answer|result|option|choice|solution|antwort|ergebnis|réponse|respuesta|resposta|risposta|ответ)s?\b"
_VERBS = r"(?:is|are|(?:would|should|must|will|to) be|equals|ist|lautet|est|es|é|è)\b(?! not\b)|[:=：]|是|为|為|は|\n"
MARK = re.compile(
    rf"(?<!#)####(?!#)|(?:{_WORDS}|答案|答え|正解|정답|답)"
    rf"[ \t*_]{{0,4}}(?:(?:to|of|for)\b[^\n.:]{{1,80}}?|\([^()\n]{{1,40}}\))?[ \t*_]{{0,4}}(?:{_VERBS})",
    re.IGNORECASE,
)
HEADING = re.compile(r"\W*(?:\d+[.):]\W*)?[^\W\d_]{3}")  # `#### Step 2`, where more text follows
BOX = re.compile(r"\\f?boxed\s*(\{|[-+]?\w[\w.,/]*)?|\\.|[{}]", re.DOTALL)
# Between two boxes that are parts of one answer, and between two that are not: "twice, so the sum is".
JOINT = re.compile(r"[,;，；、\n&]|\b(?:and|or|und|oder|et|ou|y|o)\b|[和或与及]", re.IGNORECASE)
APART = re.compile(r"[.!?。]\s|\n\s*\n|\b(?:so|hence|thus|therefore|wait|no|not|but|actually|is|gives?|answer)\b", re.I)
MAX_GAP = 60  # characters between two such boxes
NO_ANSWERS = frozenset(("", "nan", "null", "n/a", "proof", "notfound", "not found"))

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


def reference_answer(text: str, *, is_solution: bool = False) -> str | None:
    """Return the final answer of a source's reference, None where it holds none to compare with.

    It is what the text's end marks: the last `\\boxed{…}` (several that belong together, with
    commas), `<answer>`, `####`, `answer is`. Else it is the whole text; not of a solution, a placeholder (`N/A`,
    `proof`), or what is longer than MAX_ANSWER_CHARS.
    """
    text = text[-MAX_REFERENCE_CHARS:].rpartition("</think>")[2].strip()
    answer, is_marked = final_answer(text)
    if not is_marked:
        answer = "" if is_solution else text
    return None if answer.casefold() in NO_ANSWERS or len(answer) > MAX_ANSWER_CHARS else answer


def final_answer(text: str) -> tuple[str, bool]:
    """Return the line or formula of a text's final answer, and whether it is marked.

    Only what follows a `</think>` counts. Of several marks it is the last with something behind it: the completion may
    be cut there. Without any it is the last line.
    """
    text = text.rpartition("</think>")[2].partition("<think>")[0]
    tagged = (part.partition("</answer>")[0].strip() for part in reversed(text.split("<answer>")[1:]))
    inside = next(filter(None, tagged), None)
    marked = _marked(text if inside is None else inside)
    if marked is not None:
        return marked, True
    return (text.rstrip().rpartition("\n")[2].strip(), False) if inside is None else (inside, True)


def _marked(text: str) -> str | None:
    """Return the last boxes of a text, else what follows its last mark."""
    if boxes := last_boxes(text):
        return ", ".join(dict.fromkeys(boxes))
    end = len(text)
    for mark in reversed(list(MARK.finditer(text))):
        behind = text[mark.end() : end].lstrip(" \t\n*_:")
        line, _, more = behind.partition("\n")
        is_heading = mark[0] == "####" and bool(more.strip() or end < len(text)) and HEADING.match(line) is not None
        end = mark.start()
        if re.search(r"\w", line) and not is_heading:
            return line.strip()
    return None


def last_boxes(text: str) -> list[str]:
    """Return the contents of the last `\\boxed{…}` and of those right before it that belong to the same answer.

    Braces inside are kept, a box without any holds one word. A box whose end is cut off, or inside another, is none.
    """
    found: list[tuple[int, int, int]] = []  # begin of the box, of its content, end of its content
    opened: list[tuple[int, int] | None] = []  # of each open brace: its box, None where it is another's
    for token in BOX.finditer(text):
        if token[1] and token[1] != "{":
            found.append((token.start(), token.start(1), token.end(1)))
        elif token[1]:
            opened.append((token.start(), token.end()))
        elif token[0] == "{":
            opened.append(None)
        elif token[0] == "}" and opened and (box := opened.pop()):
            while found and found[-1][0] > box[0]:
                found.pop()
            found.append((*box, token.start()))
    boxes: list[str] = []  # from the last one on
    after = None
    for start, begin, end in reversed(found):
        gap = "," if after is None else text[end:after]
        if len(gap) > MAX_GAP or APART.search(gap) or not JOINT.search(gap):
            break
        boxes.append(text[begin:end].strip().rstrip(".,"))
        after = start
    return [box for box in reversed(boxes) if box]


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
