"""Counts of letters by script."""

from __future__ import annotations

import sys
import unicodedata
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

WORD_LETTERS = 4
# A letter's script is the first word of its Unicode name. Letters of other names (MATHEMATICAL BOLD, DOUBLE-STRUCK,
# MICRO SIGN, OHM SIGN) are notation and belong to no script.
SCRIPTS = {
    name: number + 1
    for number, names in enumerate(
        (
            ("LATIN",), ("GREEK",), ("CYRILLIC",), ("CJK",), ("HIRAGANA", "KATAKANA"), ("HANGUL",), ("ARABIC",),
            ("HEBREW",), ("DEVANAGARI",), ("BENGALI",), ("GURMUKHI",), ("GUJARATI",), ("TAMIL",), ("TELUGU",),
            ("KANNADA",), ("MALAYALAM",), ("SINHALA",), ("THAI",), ("LAO",), ("TIBETAN",), ("MYANMAR",), ("KHMER",),
            ("GEORGIAN",), ("ARMENIAN",), ("ETHIOPIC",), ("MONGOLIAN",),
        )
    )
    for name in names
}  # fmt: skip
NUM_SCRIPTS = 1 + max(SCRIPTS.values())
LATIN, GREEK, HAN, KANA = SCRIPTS["LATIN"], SCRIPTS["GREEK"], SCRIPTS["CJK"], SCRIPTS["HIRAGANA"]
BACKSLASH = NUM_SCRIPTS  # not a script: it begins a LaTeX command


def count_letters(
    texts: pa.Array,  # [N] large_string without null
) -> tuple[np.ndarray, np.ndarray]:  # [N, NUM_SCRIPTS] int64, twice
    """Return the letters of each script, all of them, then those in words.

    Column 0, of other characters, is always 0. In Latin and Greek a word is a run of at least 4 letters that is not a
    LaTeX command; in other scripts every run is one.
    """
    row = np.repeat(np.arange(len(texts)), pc.utf8_length(texts).to_numpy(zero_copy_only=False))
    joined = pc.binary_join(pa.ListArray.from_arrays([0, len(texts)], texts), pa.scalar("", pa.large_string()))[
        0
    ].as_py()
    script = _scripts()[np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)]
    begins = np.flatnonzero(np.diff(script, prepend=-1) | np.diff(row, prepend=-1))
    length = np.diff(begins, append=len(script))
    of_row, of_script = row[begins], script[begins].astype(np.int64)
    command = np.zeros(len(begins), dtype=bool)
    command[1:] = (of_script[:-1] == BACKSLASH) & (of_row[1:] == of_row[:-1])
    is_word = ~np.isin(of_script, (LATIN, GREEK)) | ((length >= WORD_LETTERS) & ~command)
    counts = []
    for counted in (length, np.where(is_word, length, 0)):
        cells = np.bincount(of_row * (NUM_SCRIPTS + 1) + of_script, counted, len(texts) * (NUM_SCRIPTS + 1))
        cells = cells.reshape(len(texts), NUM_SCRIPTS + 1)[:, :NUM_SCRIPTS].astype(np.int64)
        cells[:, 0] = 0
        counts.append(cells)
    return counts[0], counts[1]


@lru_cache(1)
def _scripts() -> np.ndarray:  # [1114112] int8
    """Return the script of each code point, by SCRIPTS; 0 for one that is no letter of these."""
    script = np.zeros(sys.maxunicode + 1, dtype=np.int8)
    for point in range(0x33480):  # past the last letter of Unicode 17
        if unicodedata.category(letter := chr(point))[0] == "L":
            script[point] = SCRIPTS.get(unicodedata.name(letter, "").split(" ")[0], 0)
    script[ord("\\")] = BACKSLASH
    return script
