"""Final answer of a completion or of a reference: where it stands in a text."""

from __future__ import annotations

import re

# A final answer is at the end; every formula of a long derivation would be parsed as a candidate, 20-180 ms each.
MAX_CHARS = 4_000
MAX_ANSWER_CHARS = 1_000
MAX_REFERENCE_CHARS = 100_000  # of a source's solution: 0.2 s at worst

# The words before an answer in several languages, then a verb, a colon, or the line's end (a heading, bold).
_WORDS = (
    r"\b(?:answer|result|option|choice|solution|antwort|ergebnis|réponse|respuesta|opción|resposta|risposta|ответ)s?\b"
)
_VERBS = r"(?:is|are|(?:would|should|must|will|to) be|equals|ist|lautet|est|es|é|è)\b(?! not\b)|[:=：]|是|为|為|は|\n"
_ASIDE = r"(?:(?:to|of|for)\b[^\n.:]{1,80}?|\([^()\n]{1,40}\))?"  # the answer (in dollars) is, the answer to it is
MARK = re.compile(
    rf"(?<!#)####(?!#)|[选選](?=\s*[（(]?[A-J])"
    rf"|(?:{_WORDS}|答案|回答|答え?|正解|정답|답)(?: correct[ae]?)?[ \t*_]{{0,4}}{_ASIDE}[ \t*_]{{0,4}}(?:{_VERBS})",
    re.IGNORECASE,
)
CALCULATION = re.compile(r"<<[^<>\n]{0,200}>>")  # GSM8K's, before its result
DENIED = re.compile(r"\banswer (?:is|are|was) ?n(?:o|['’])t\b(?:[^\n]*\bbut\b)?", re.IGNORECASE)
HEADING = re.compile(r"\W*(?:\d+[.):]\W*)?[^\W\d_]{3}")  # `#### Step 2`, where more text follows
BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|[-+]?\w[\w.,/]*)?|\\.|[{}]", re.DOTALL)
# Between two boxes that are parts of one answer, and between two that are not: "twice, so the sum is".
JOINT = re.compile(r"[,;，；、\n&]|\b(?:and|or|und|oder|et|ou|y|o)\b|[和或与及]", re.IGNORECASE)
APART = re.compile(r"[.!?。]\s|\n\s*\n|\b(?:so|hence|thus|therefore|wait|no|not|but|actually|is|gives?|answer)\b", re.I)
MAX_GAP = 60  # characters between two such boxes
NO_ANSWERS = frozenset(("", "nan", "null", "n/a", "proof", "notfound", "not found"))


def reference_answer(text: str, *, is_solution: bool = False) -> str | None:
    """Return the final answer of a source's reference, None where it holds none to compare with.

    It is what the text's end marks: the last `\\boxed{…}` (several that belong together, with
    commas), `<answer>`, `####`, `answer is`. Else it is the whole text; not of a solution, a placeholder (`N/A`,
    `proof`), or what is longer than MAX_ANSWER_CHARS.
    """
    answer, is_marked = final_answer(text, MAX_REFERENCE_CHARS)
    if not is_marked:
        answer = "" if is_solution else text.rpartition("</think>")[2].strip()
    return None if answer.casefold() in NO_ANSWERS or len(answer) > MAX_ANSWER_CHARS else answer


def final_answer(text: str, max_chars: int = MAX_CHARS) -> tuple[str, bool]:
    """Return the line or formula of a text's final answer, and whether it is marked.

    Only what follows a `</think>` counts, and its last `max_chars` characters. Of several marks it is the last with
    something behind it: the completion may be cut there. Without any it is the last line.
    """
    text = _tail(text.rpartition("</think>")[2].partition("<think>")[0].strip(), max_chars)
    tagged = (part.partition("</answer>")[0].strip() for part in reversed(text.split("<answer>")[1:]))
    inside = next(filter(None, tagged), None)
    marked = _marked(text if inside is None else inside)
    if marked is not None:
        return marked, True
    if inside is not None:
        return inside, True
    line = next((line.strip() for line in reversed(text.split("\n")) if re.search(r"\w", line)), "")
    line = CALCULATION.sub("", line)
    if denied := DENIED.search(line):  # "not 6 but 7"
        line = line[denied.end() :].strip() if denied[0].lower().endswith("but") else ""
    return line, False


def _tail(text: str, max_chars: int) -> str:
    """Return a text's last characters from a line's start on: half a formula would be parsed as another."""
    tail = text[-max_chars:]
    return tail if len(text) <= max_chars else tail.partition("\n")[2] or tail


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
            return line.strip().rstrip("!")
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
