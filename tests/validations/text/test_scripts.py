"""Counts of letters by script, on texts with known counts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from validations.text.scripts import GREEK, HAN, KANA, LATIN, NUM_SCRIPTS, SCRIPTS, count_letters


def counts(*texts: str) -> list[tuple[dict[int, int], dict[int, int]]]:
    """Return all letters, then those in words, by script, of each text."""
    found = count_letters(pa.array(texts, pa.large_string()))
    assert all(each.shape == (len(texts), NUM_SCRIPTS) for each in found)
    everything, words = ([{int(s): int(row[s]) for s in np.flatnonzero(row)} for row in each] for each in found)
    return list(zip(everything, words, strict=True))


def test_letters_by_script() -> None:
    assert counts("two 北京 りん, リ и\u0301", "", "7 + 8 = 15 ℝ \u2126 𝐀") == [
        ({LATIN: 3, HAN: 2, KANA: 3, SCRIPTS["CYRILLIC"]: 1}, {HAN: 2, KANA: 3, SCRIPTS["CYRILLIC"]: 1}),
        ({}, {}),
        ({}, {}),
    ]


def test_words_of_four_letters_that_are_no_command() -> None:
    assert counts("sin αβγ", "four λόγος", "\\frac", "\\ frac") == [
        ({LATIN: 3, GREEK: 3}, {}),
        ({LATIN: 4, GREEK: 5}, {LATIN: 4, GREEK: 5}),
        ({LATIN: 4}, {}),
        ({LATIN: 4}, {LATIN: 4}),
    ]


def test_a_word_ends_with_its_row() -> None:
    assert counts("Μένουν αβ", "γδ", "\\", "Remaining") == [
        ({GREEK: 8}, {GREEK: 6}),
        ({GREEK: 2}, {}),
        ({}, {}),
        ({LATIN: 9}, {LATIN: 9}),
    ]
