"""Comparison of final answers that are no mathematics: choices, names, dates, scores, lists of these."""

from __future__ import annotations

import re
import unicodedata

from validations.text.notation import LITERAL, plain

# What may follow an answer: `B) 42`, `B (Paris)`, `Paris, which …`; not a second answer: `A, C`, `red or blue`.
REMARK = re.compile(
    r"$|[.!?:)\]。！—–]|\\| ?[(\[]| [-—–]"
    r"|,? (?:because|since|as|which|who|that|where|so|of course|the|an?|it|i|we|you|they)\b"
    r"| is (?!not\b|wrong|incorrect|false)|です|である|だ|입니다|이다| [ap]m\b"
)
SEPARATOR = re.compile(r"\s*(?:[,;/&、，]|\b(?:and|or|und|oder|et|ou|y)\b)\s*")
LETTERS = re.compile(r"[A-J]{2,}")  # AC for A and C
CHOICE = re.compile(r"([a-j])[.):] ")  # B. Paris
COPULA = re.compile(r"\b(?:is|are|was|be)\b|['’]s\b|=|:(?!\d)")
CHOSEN = re.compile(
    r"\b(?:choose|select|pick|option|choice) \(?([a-j])\b"
    r"|(?<![a-z] )\b([a-j])\)? is (?:the |most )?(?:likely )?(?:correct|right|best|answer)"
)


def same_text(given: str, answer: str, *, is_marked: bool = True) -> bool:
    """Return whether a final answer equals the reference as text, but for case, delimiters, and a remark after it.

    Lists may be in any order. In a line that nothing marks the answer may stand after its last `is`.
    """
    if plain(given) == plain(answer) != "":
        return True
    expected, found = folded(answer), folded(given)
    if not expected:
        return False
    names, others = _names(answer), _names(given)
    if len(names) > 1:
        return names == others
    if (choice := CHOICE.match(expected)) and found == choice[1]:
        return True
    lines = [found]
    if not is_marked and (copulas := list(COPULA.finditer(found))):
        lines.append(found[copulas[-1].end() :].strip())
    if not is_marked and len(expected) == 1:
        lines += [chosen[1] or chosen[2] for chosen in CHOSEN.finditer(found)][-1:]
    if not is_marked and LITERAL.fullmatch(expected) and len(literals := list(LITERAL.finditer(found))) == 1:
        lines.append(literals[0][0])
    return any(line.startswith(expected) and REMARK.match(line[len(expected) :]) is not None for line in lines)


def folded(text: str) -> str:
    """Return a text as it is compared: delimiters, case, width and the form of dashes do not count."""
    text = plain(unicodedata.normalize("NFKC", text)).casefold()
    text = re.sub(r"^(?:option|choice|answer) ", "", re.sub(r"[−–‐‑]", "-", text))
    text = re.sub(r"\b([ap])\. ?m\b\.?", r"\1m", re.sub(r"(?<=\d) ?([-:]) ?(?=\d)", r"\1", text))
    return text[1:] if text[:1] in ("(", "[") and text[2:3] in (")", "]") else text  # (B) Paris


def _names(text: str) -> list[str]:
    """Return the sorted items of a list; those of AC are A and C."""
    if LETTERS.fullmatch(bare := plain(text)):
        return sorted(bare.casefold())
    if LITERAL.fullmatch(bare):
        return [bare]
    return sorted(plain(name) for name in SEPARATOR.split(folded(text)) if name)
