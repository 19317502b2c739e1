"""Checks of completions, vectorised over rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from validations.text.guidance import gram_hashes
from validations.text.scripts import HAN, KANA, count_letters

NGRAM, LOOP_TOKENS, LOOP_SHARE, TAIL_TOKENS = 8, 32, 0.5, 64
STRAY_LETTERS, STRAY_SHARE = 8, 0.05
SLICE_TOKENS, SLICE_ROWS, SLICE_BYTES = 1 << 20, 1 << 14, 1 << 21  # some 100 MB of intermediate arrays at most


def ends_right(
    token_ids: np.ndarray,  # [T] int32
    starts: np.ndarray,  # [N+1] int64
    finish_reason: pa.Array,  # [N] string
    eos_ids: frozenset[int],
    stop_token_ids: frozenset[int],
) -> np.ndarray:  # [N] bool
    """Return whether ending ids are only at a row's end, and the last id agrees with the finish reason.

    "eos": an EOS id. "stop": no EOS id (a stop id, or any other on a stop string). "length": neither. Under an unknown
    reason any last id is right; a row without tokens is False.
    """
    last = _last_ids(token_ids, starts)
    is_eos, is_stop = _is_in(last, eos_ids), _is_in(last, stop_token_ids)
    reason = {name: _bools(pc.equal(finish_reason, name)) for name in ("eos", "stop", "length")}
    right = (
        np.where(reason["eos"], is_eos, True) & ~(reason["stop"] & is_eos) & ~(reason["length"] & (is_eos | is_stop))
    )
    indices = np.flatnonzero(_is_in(token_ids, eos_ids | stop_token_ids))
    row = np.searchsorted(starts, indices, side="right") - 1
    right[row[indices != starts[row + 1] - 1]] = False
    return right & (np.diff(starts) > 0)


def decodes(
    token_ids: np.ndarray,  # [T] int32
    starts: np.ndarray,  # [N+1] int64
    finish_reason: pa.Array,  # [N] string
    completion: pa.Array,  # [N] string
    eos_ids: frozenset[int],
    stop_token_ids: frozenset[int],
    decode: Callable[[list[list[int]]], list[str]],
) -> np.ndarray:  # [N] bool
    """Return whether a completion is what a `Request` decodes: the text of its ids without a final ending id.

    Where a stop string ended the row (reason "stop", the last id is not an ending id) the text was cut where the string
    begins: the ids' text must start with the completion. `decode` turns many rows into texts without special tokens.
    """
    ended = _is_in(_last_ids(token_ids, starts), eos_ids | stop_token_ids) & ~_bools(pc.equal(finish_reason, "length"))
    cut = _bools(pc.equal(finish_reason, "stop")) & ~ended
    stops = starts[1:] - ended
    right = np.zeros(len(completion), dtype=bool)
    for begin in range(0, len(completion), SLICE_ROWS):
        rows = slice(begin, min(begin + SLICE_ROWS, len(completion)))
        first = int(starts[begin])
        ids = token_ids[first : starts[rows.stop]].tolist()
        bounds = zip((starts[rows] - first).tolist(), (stops[rows] - first).tolist(), strict=True)
        texts = decode([ids[start:stop] for start, stop in bounds])
        wanted = _texts(completion.slice(begin, rows.stop - begin))
        right[rows] = _bools(pc.equal(pa.array(texts, pa.large_string()), wanted))
        for index in np.flatnonzero(cut[rows] & ~right[rows]):
            right[begin + index] = texts[index].startswith(wanted[int(index)].as_py())
    return right


def loops(
    token_ids: np.ndarray,  # [T] int32
    starts: np.ndarray,  # [N+1] int64
) -> np.ndarray:  # [N] bool
    """Return whether a row of at least 32 tokens repeats itself: over half of its 8-grams occur earlier in it.

    So do those of its last 64 tokens among themselves, where it falls into a loop at its end.

    The duplicate n-gram fraction of Gopher's filter (Rae et al. 2021, arXiv 2112.11446, table A1; datatrove's
    GopherRepetitionFilter), counted in tokens in place of characters of words. Gopher drops web pages above 13 % of
    8-grams. Solutions repeat their formulas, and a byte-level vocabulary repeats every word: of GSM8K's 7,473
    reference solutions 0.1 % in words and 34 % in bytes (of those of at least 32) exceed 13 %, none exceeds a half
    (highest: 19 % and 49 %). A row in a loop for most of its length does: of period p, all but the first p 8-grams
    are repeats.
    """
    found = np.zeros(len(starts) - 1, dtype=bool)
    long = np.flatnonzero(np.diff(starts) > TAIL_TOKENS)
    tails = (starts[1:][long, None] - np.arange(TAIL_TOKENS, 0, -1)).reshape(-1)
    bounds = np.arange(len(long) + 1) * TAIL_TOKENS
    for rows, ids, row_starts in ((np.arange(len(found)), token_ids, starts), (long, token_ids[tails], bounds)):
        for begin, end in _slices(row_starts, SLICE_TOKENS):
            first = row_starts[begin]
            found[rows[begin:end]] |= _loops(ids[first : row_starts[end]], row_starts[begin : end + 1] - first)
    return found


def is_garbled(completion: pa.Array) -> np.ndarray:  # [N] bool
    """Return whether a text holds U+FFFD, a private-use or a control character (not tab, newline, form feed, return).

    Unassigned characters do not count: the Unicode tables here may be older than a model.
    """
    texts = _texts(completion)
    return _bools(pc.match_substring_regex(texts, r"[\x00-\x08\x0b\x0e-\x1f\x7f\x{80}-\x{9f}\x{fffd}\p{Co}]"))


def strays(
    completion: pa.Array,  # [N] string
    prompt: pa.Array,  # [N] string
) -> np.ndarray:  # [N] bool
    """Return whether a completion drifts into a script of which its prompt has no letter.

    At least 8 letters and 5 % of the completion's: a name or a quoted word is shorter, and a sentence in another
    language is longer (8 Han characters say what some 25 Latin letters do). Greek and Latin letters are mathematics
    too (π, αβγ, sin): they count in runs of 4 letters or more, and not as a LaTeX command (`\\frac`). Han is expected
    where the prompt holds kana. A prompt that asks for a translation is not recognised.
    """
    texts, prompts = _texts(completion), _texts(prompt)
    plain = _bools(pc.string_is_ascii(texts)) & _bools(pc.match_substring_regex(prompts, "[A-Za-z]"))
    found = np.zeros(len(texts), dtype=bool)
    rest = np.flatnonzero(~plain)
    texts, prompts = texts.take(rest), prompts.take(rest)
    sizes = pc.add(pc.binary_length(texts), pc.binary_length(prompts)).to_numpy(zero_copy_only=False)
    for begin, end in _slices(np.concatenate([[0], np.cumsum(sizes)]), SLICE_BYTES):
        all_letters, words = count_letters(texts.slice(begin, end - begin))
        home = count_letters(prompts.slice(begin, end - begin))[0] > 0
        home[:, HAN] |= home[:, KANA]
        away = np.where(home, 0, words)
        least = np.maximum(STRAY_LETTERS, STRAY_SHARE * all_letters.sum(axis=1))
        found[rest[begin:end]] = away.max(axis=1) >= least
    return found


def text_hashes(
    prompt: pa.Array,  # [N] string
    completion: pa.Array,  # [N] string
) -> np.ndarray:  # [N] uint64
    """Return a hash of each row's prompt and completion, which is the same in every process."""
    hashes = [
        pd.util.hash_array(_texts(texts).to_numpy(zero_copy_only=False), categorize=False)
        for texts in (prompt, completion)
    ]
    # An odd factor distinguishes (a, b) from (b, a), and keeps hashes of one prompt's completions different.
    return hashes[0] + hashes[1] * np.uint64(0xC2B2AE3D27D4EB4F)


def _loops(token_ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """`loops` of a slice; its 8-grams are sorted as (row, hash)."""
    lengths = np.diff(starts)
    num_grams = np.where(lengths >= LOOP_TOKENS, lengths - NGRAM + 1, 0)
    if not num_grams.any():
        return np.zeros(len(lengths), dtype=bool)
    hashes = gram_hashes(token_ids, NGRAM)
    row = np.repeat(np.arange(len(lengths)), num_grams)
    index = np.arange(len(row)) + (starts[:-1] - (np.cumsum(num_grams) - num_grams))[row]
    # At most 2^20 + 1 rows leave 43 bits of hash: two of 1,000 8-grams collide with a chance of 6e-8.
    num_bits = np.uint64(64 - len(lengths).bit_length())
    keys = row.astype(np.uint64) << num_bits | hashes[index] >> (np.uint64(64) - num_bits)
    keys.sort()
    repeated = keys[1:][keys[1:] == keys[:-1]] >> num_bits
    num_repeated = np.bincount(repeated.astype(np.int64), minlength=len(lengths))
    return num_repeated > LOOP_SHARE * num_grams


def _slices(
    starts: np.ndarray,  # [N+1] int64
    most: int,
) -> Iterator[tuple[int, int]]:
    """Yield ranges of at least one row, and of more while they hold at most `most` elements and `most` rows."""
    begin, num_rows = 0, len(starts) - 1
    while begin < num_rows:
        end = int(np.searchsorted(starts, starts[begin] + most, side="right")) - 1
        end = min(max(end, begin + 1), begin + most, num_rows)
        yield begin, end
        begin = end


def _last_ids(token_ids: np.ndarray, starts: np.ndarray) -> np.ndarray:  # [N] int64, −1 for a row without tokens
    last = np.full(len(starts) - 1, -1, dtype=np.int64)
    filled = np.diff(starts) > 0
    last[filled] = token_ids[starts[1:][filled] - 1]
    return last


def _is_in(token_ids: np.ndarray, ids: frozenset[int]) -> np.ndarray:  # [T] bool
    return np.isin(token_ids, np.array(sorted(ids), dtype=token_ids.dtype))


def _texts(array: pa.Array) -> pa.Array:
    """Return 64-bit strings, null as the empty one."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return pc.fill_null(pc.cast(array, pa.large_string()), "")


def _bools(array: pa.Array) -> np.ndarray:  # [N] bool, False for null
    return pc.fill_null(array, False).to_numpy(zero_copy_only=False)
