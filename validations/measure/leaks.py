"""Leaks: references that a template put into theta's prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

SHORT = 16  # characters; a shorter reference counts only as a whole word
NUMBER_BEFORE, NUMBER_AFTER = re.compile(r"\d[.,]"), re.compile(r"[.,]\d")
GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?![\d,])")
ZEROS = re.compile(r"(?<=\d)\.0{1,9}(?![\d.])")
# Scripts without spaces: Thai to Myanmar, Khmer, Han with kana; Hangul has them, but not before particles.
UNSPACED = re.compile("[\u0e00-\u109f\u1780-\u17ff\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
CONTEXT = 80  # characters on each side of a reference in which a list is looked for
_ITEM = r"[\"'`*“‘(\[]{0,3}\w[\w.-]{0,30}(?: \w[\w.-]{0,30}){0,2}[\"'`*”’)\]]{0,3}"
# `positive` in: positive or negative; positive/negative; positive, neutral or negative.
LISTED_AFTER = re.compile(
    rf"[\"'`*”’)\]]{{0,3}}(?:\s?,\s?{_ITEM}){{0,8}}?,?(?:\s+(?:or|oder|ou|o|vs\.?)\s+|\s?[/|或]\s?)[\"'`*“‘(\[]{{0,3}}\w"
    r"|[\"'`*”’]{0,3}\s+and\s+[\"'`*“‘]{0,3}\w+[\"'`*”’]{0,3}\s*(?:[.,;:!?)\]\n]|$)"
)
LISTED_BEFORE = re.compile(
    r"(?:\b(?:or|oder|ou|vs\.?)\s+|\w[\"'`*”’)\]]{0,3}\s?[/|或]\s?|\w\s+and\s+)[\"'`*“‘(\[]{0,3}$"
)
# Labels: positive, negative; [positive, negative].
_LABELS = r"\b(?:labels?|class(?:es)?|options?|choices?|categor(?:y|ies)|one of|from|among|values|either)\b"
CHAIN = re.compile(rf"(?:[\[({{]|{_LABELS}[^.\n]{{0,20}}?)[:\s]*{_ITEM}(?:\s?[,;]\s?{_ITEM})+\s*(?:[\])}}.\n]|$)")
BULLET = re.compile(r"(?:^|\n)\s*(?:[-*•]|\(?(?:\d{1,2}|[a-j])[.):])[ \t]", re.IGNORECASE)
MAX_NAMED = 10_000  # suspected leaks whose names are kept
CLEAN = 0  # in place of the hash of a reference: the prompt holds none


@dataclass(slots=True)
class LeakCount:
    """Count of rows whose reference was put into theta's prompt.

    A template may hold a row's answer by chance ("in 3 steps"). Then the same frame, the prompt without the question,
    occurs in rows with other answers. So a row counts as a leak if its frame occurs with no other reference, nor
    without one. Memory: 16 bytes a distinct pair of frame and reference.
    """

    _pairs: list[np.ndarray] = field(default_factory=list)  # [U, 2] each: distinct (frame, leaked) of a batch
    _counts: list[np.ndarray] = field(default_factory=list)  # [U] rows of each
    _names: dict[tuple[int, int], str] = field(default_factory=dict)  # of the first suspected rows

    def add(self, frames: np.ndarray, leaked: np.ndarray, names: Sequence[str] = ()) -> None:  # [N] int64 each
        """Add a batch; `names` [N] are the rows' names in a message."""
        pairs, counts = np.unique(np.stack([frames, leaked], axis=1), axis=0, return_counts=True)
        self._pairs.append(pairs)
        self._counts.append(counts)
        if names:
            for row in np.flatnonzero(leaked != CLEAN)[: MAX_NAMED - len(self._names)]:
                self._names.setdefault((int(frames[row]), int(leaked[row])), names[row])

    def num_leaks(self) -> int:
        """Return the number of rows that leak."""
        pairs, counts = self._leaks()
        return int(counts.sum()) if len(pairs) else 0

    def first_leak(self) -> str | None:
        """Return the name of the first row that leaks, None if it is not among the kept names."""
        pairs = set(map(tuple, self._leaks()[0].tolist()))
        return next((name for pair, name in self._names.items() if pair in pairs), None)

    def _leaks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs [U, 2] that are leaks, with the number of rows [U] of each."""
        if not self._pairs:
            return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
        pairs, inverse = np.unique(np.concatenate(self._pairs), axis=0, return_inverse=True)
        counts = np.bincount(inverse.reshape(-1), np.concatenate(self._counts))
        frames, num_kinds = np.unique(pairs[:, 0], return_counts=True)
        alone = num_kinds[np.searchsorted(frames, pairs[:, 0])] == 1
        leaks = alone & (pairs[:, 1] != CLEAN)
        return pairs[leaks], counts[leaks]


def contains_reference(reference: str, text: str) -> bool:
    """Return whether a text holds a reference: a long one up to white space, a short one as a whole word.

    Case does not count, nor how a number is written (1200, 1,200, 1200.0); that of a single letter does.
    """
    return next(_places(reference, text), None) is not None


def singles_out(reference: str, text: str) -> bool:
    """Return whether a text holds a reference anywhere but as one of several: `positive or negative`, `A, B, C`."""
    return any(end == 0 or not _is_listed(found, begin, end) for found, begin, end in _places(reference, text))


def squeezed(text: str) -> str:
    """Return a text without its white space."""
    return "".join(text.split())


def _places(reference: str, text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the text as it is compared, with begin and end of each place of the reference; 0, 0 for a long one."""
    words = " ".join(reference.split())
    if len(words) > 1 or not words.isalpha():  # the letter A is not the article
        words, text = _comparable(words), _comparable(text)
    if len(bare := squeezed(words)) >= SHORT:
        if bare in squeezed(text):
            yield text, 0, 0
        return
    if not words:
        return
    if " " in words:
        text = " ".join(text.split())
    begin = text.find(words)
    while begin >= 0:
        if _is_word(text, begin, begin + len(words)):
            yield text, begin, begin + len(words)
        begin = text.find(words, begin + 1)


@lru_cache(4)
def _comparable(text: str) -> str:
    """Return a text with case folded and numbers in one form."""
    text = text.casefold()
    if "," in text:
        text = GROUPED.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    return ZEROS.sub("", text) if ".0" in text else text


def _is_word(text: str, begin: int, end: int) -> bool:
    """Return whether text[begin:end] is no part of a longer word or number: 3 is part of 13, 3.5, 3,000 and .3."""
    before, after = text[max(0, begin - 2) : begin], text[end : end + 2]
    if _is_letter(text[begin]) and before and _is_letter(before[-1]):
        return False
    if _is_letter(text[end - 1]) and after and _is_letter(after[0]):
        return False
    if text[begin].isdigit() and ((before[-1:] == "." and not before[:-1].strip()) or NUMBER_BEFORE.fullmatch(before)):
        return False
    return not (text[end - 1].isdigit() and NUMBER_AFTER.fullmatch(after))


def _is_letter(character: str) -> bool:
    """Return whether it belongs to a word between spaces; 东京 is a word in 答案是东京吗 without them."""
    return (character.isalnum() or character == "_") and not UNSPACED.match(character)


def _is_listed(text: str, begin: int, end: int) -> bool:
    """Return whether text[begin:end] is one item of a list that names others, too."""
    before, after = text[max(0, begin - CONTEXT) : begin], text[end : end + CONTEXT]
    if LISTED_AFTER.match(after) or LISTED_BEFORE.search(before):
        return True
    here = before + text[begin:end] + after
    if any(chain.start() <= len(before) < chain.end() for chain in CHAIN.finditer(here)):
        return True
    line_begin = here.rfind("\n", 0, len(before)) + 1
    own = BULLET.match(here, max(0, line_begin - 1))
    return own is not None and sum(1 for _ in BULLET.finditer(here)) > 1
