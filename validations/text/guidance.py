"""Traces of a teacher that was shown the answer: phrases that give it away, copied words, doubts it does not have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# What a completion says of a hint that theta never saw (arXiv 2603.24472, 2607.05184).
PHRASES = (
    "as given", "as stated in the solution", "the hint says", "according to the hint", "based on the hint",
    "the hint tells", "the given answer", "the provided answer", "the provided solution", "the given solution",
    "the reference answer", "the reference solution", "according to the solution", "according to the reference",
    "according to the answer key", "the answer key", "the solution says", "the correct answer is stated as",
    "the correct answer is given as", "the answer is given as", "we are told the answer", "we know the answer is",
    "laut der lösung", "laut lösung", "der hinweis sagt", "laut hinweis", "die angegebene antwort", "laut musterlösung",
    "selon la solution", "l'indice dit", "selon l'indice", "la réponse donnée", "la réponse de référence",
    "según la solución", "la pista dice", "según la pista", "la respuesta dada", "la respuesta de referencia",
    "segundo a solução", "a dica diz", "a resposta dada", "secondo la soluzione", "il suggerimento dice",
    "согласно решению", "согласно подсказке", "подсказка говорит", "данный ответ",
    "根据提示", "提示说", "根据给出的答案", "参考答案", "根据答案", "标准答案", "根据解答",
    "ヒントによると", "解答によると", "模範解答", "힌트에 따르면", "정답에 따르면", "참고 답안",
)  # fmt: skip
# "as given in the problem" speaks of what both were shown.
OF_THE_QUESTION = re.compile(
    r"\s*(?:in|by|from)\s+(?:the|this|our)\s+(?:problem|question|exercise|task|text|statement|passage|table|figure|above)",
    re.IGNORECASE,
)
# RE2 knows \b next to ASCII letters alone.
DOUBTS = (
    r"\b(?:wait|hmm+|maybe|perhaps|not sure|unsure|let me (?:check|verify|recheck|re-check|see if|think again)"
    r"|double[- ]check|on second thought|alternatively|vielleicht|moment mal|quiz[aá]s|tal vez|talvez|forse|peut-)"
    r"|может быть|подожди|наверное|等等|等一下|也许|让我检查|让我验证|かもしれない|待って|잠깐|아마"
)
COPIED_WORDS = 16  # in a row: a completion that shares so many with the reference copies it
GRAM_WORDS = 8  # fewer in a row are not counted: formulas and phrases of a field
SLICE_BYTES = 8 << 20  # of texts at a time; some 200 MB of intermediate arrays


def privileged(texts: pa.Array, prompts: pa.Array, phrases: Sequence[str]) -> np.ndarray:  # [N] large_string → bool
    """Return whether a text holds a phrase that its own prompt does not, whatever the case."""
    if not phrases:
        return np.zeros(len(texts), dtype=bool)
    pattern = "|".join(re.escape(phrase) for phrase in phrases)
    found = pc.match_substring_regex(texts, pattern, ignore_case=True).to_numpy(zero_copy_only=False).copy()
    spoken = re.compile(pattern, re.IGNORECASE)
    for index in np.flatnonzero(found):
        text, prompt = texts[int(index)].as_py(), prompts[int(index)].as_py().casefold()
        said = {match[0].casefold() for match in spoken.finditer(text) if not OF_THE_QUESTION.match(text, match.end())}
        found[index] = any(phrase not in prompt for phrase in said)
    return found


def count_doubts(texts: pa.Array) -> np.ndarray:  # [N] large_string → int64
    """Return how many markers of uncertainty each text holds."""
    return np.asarray(pc.count_substring_regex(texts, DOUBTS, ignore_case=True).to_numpy(zero_copy_only=False))


def copied_words(texts: pa.Array, references: pa.Array, questions: pa.Array) -> np.ndarray:  # [N] each → [N] int64
    """Return the longest run of words that a text shares with its reference, beyond those in its question.

    A run counts from 8 words on, else it is 0. Case and punctuation do not count; a Han character or kana is a word.
    """
    longest = np.zeros(len(texts), dtype=np.int64)
    rows = np.flatnonzero(pc.greater(pc.binary_length(references), 2 * GRAM_WORDS - 2).to_numpy(zero_copy_only=False))
    columns = [column.take(pa.array(rows)) for column in (texts, references, questions)]
    sizes = sum(pc.binary_length(column).to_numpy(zero_copy_only=False) for column in columns)
    for begin, end in _slices(np.concatenate([[0], np.cumsum(sizes)])):
        longest[rows[begin:end]] = _copied(*(column.slice(begin, end - begin) for column in columns))
    return longest


def gram_hashes(ids: np.ndarray, num: int) -> np.ndarray:  # [T] integers → [T - num + 1] uint64
    """Return a hash of each run of `num` ids; at least `num` ids are needed."""
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    hashes = np.zeros(len(ids) - num + 1, dtype=np.uint64)
    for offset in range(num):
        hashes *= np.uint64(0xD1342543DE82EF95)
        hashes += mixed[offset : offset + len(hashes)]
    return hashes


def _copied(texts: pa.Array, references: pa.Array, questions: pa.Array) -> np.ndarray:
    split = [_words(column) for column in (texts, references, questions)]
    codes = pa.chunked_array([words for words, _ in split]).combine_chunks().dictionary_encode().indices.to_numpy()
    bounds = np.cumsum([0, *(len(words) for words, _ in split)])
    keys = [
        _keys(codes[start:stop], starts) for (_, starts), start, stop in zip(split, bounds, bounds[1:], strict=False)
    ]
    own, position = keys[0]
    shared = _is_in(own, keys[1][0])
    shared[shared] = ~_is_in(own[shared], keys[2][0])
    longest = np.zeros(len(texts), dtype=np.int64)
    at = np.flatnonzero(shared)
    if len(at):
        begins = np.flatnonzero(np.diff(at, prepend=-2) != 1)
        # A row's last gram and the next row's first are no neighbours in the text.
        row = np.searchsorted(split[0][1], position, side="right") - 1
        begins = np.union1d(begins, np.flatnonzero(np.diff(row[at], prepend=-1) != 0))
        np.maximum.at(longest, row[at][begins], np.diff(begins, append=len(at)) + GRAM_WORDS - 1)
    return longest


def _words(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return the words of all texts, and where each text's begin [N+1]."""
    if not pc.all(pc.string_is_ascii(texts)).as_py():
        texts = pc.replace_substring_regex(texts, r"([\p{Han}\p{Hiragana}\p{Katakana}])", r" \1 ")
    texts = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), r"[^\p{L}\p{N}\p{M}]+", " "))
    lists = pc.split_pattern(texts, " ")
    starts = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy(zero_copy_only=False))])
    return pc.list_flatten(lists), starts.astype(np.int64)


def _keys(codes: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # [G] uint64, [G] int64 position
    """Return a hash of each run of 8 words within a text, with the text's number in its upper bits."""
    if len(codes) < GRAM_WORDS:
        return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    hashes = gram_hashes(codes, GRAM_WORDS)
    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    inside = np.flatnonzero(row[: len(hashes)] == row[GRAM_WORDS - 1 :])
    num_bits = np.uint64(64 - len(starts).bit_length())
    return row[inside].astype(np.uint64) << num_bits | hashes[inside] >> (np.uint64(64) - num_bits), inside


def _is_in(keys: np.ndarray, among: np.ndarray) -> np.ndarray:  # [G], [H] uint64 → [G] bool
    """Return whether keys are among others; numpy's own takes three times as long where both ascend by row."""
    among = np.append(np.sort(among), np.uint64(0))  # 0: one past the end, whose place no key has
    place = np.searchsorted(among[:-1], keys)
    return (among[place] == keys) & (place < len(among) - 1)


def _slices(starts: np.ndarray) -> Iterator[tuple[int, int]]:  # [N+1] int64
    """Yield ranges of at least one row, and of more while they hold at most SLICE_BYTES."""
    begin, num_rows = 0, len(starts) - 1
    while begin < num_rows:
        end = max(begin + 1, int(np.searchsorted(starts, starts[begin] + SLICE_BYTES, side="right")) - 1)
        yield begin, min(end, num_rows)
        begin = min(end, num_rows)
