"""The two prompts of each row, held against the row they were made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from validations.measure.metadata import DatasetMetadata, Turn

SHORT = 16  # characters: a shorter reference counts only as a word of its own
REFERENCES = ("final_answer", "answer", "solution")
NUMBER_BEFORE, NUMBER_AFTER = re.compile(r"\d[.,]"), re.compile(r"[.,]\d")
# Thai to Myanmar, Khmer, Han with kana; Hangul has spaces, but particles follow a word without one.
UNSPACED = re.compile("[\u0e00-\u109f\u1780-\u17ff\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
HELD = "\0"  # in place of a text that a prompt holds
MAX_NAMED = 10_000  # suspects whose names are kept
CLEAN = 0  # in place of the hash of a reference: the row's own stands nowhere


@dataclass(slots=True)
class PromptMetrics:
    """What is found of N rows; None where the dataset lacks the column it takes."""

    theta_not_empty: np.ndarray | None = None  # [N] bool
    teacher_not_empty: np.ndarray | None = None
    theta_one_bos: np.ndarray | None = None
    teacher_one_bos: np.ndarray | None = None
    question: np.ndarray | None = None  # [N] bool, stands in both prompts, inside the user's turn of each
    referenced: np.ndarray | None = None  # [N] bool, the source has a reference
    shown: np.ndarray | None = None  # [N] bool, and the teacher's prompt carries it
    messages: np.ndarray | None = None  # [N] bool, end with the question and the completion of this row
    frames: np.ndarray | None = None  # [N] int64 hash of theta's prompt without the question
    leaked: np.ndarray | None = None  # [N] int64 hash of the reference that stands in it, else CLEAN


def judge_prompts(table: pa.Table, facts: DatasetMetadata) -> PromptMetrics:
    """The figures of a batch; its columns are those of `validations.measure.reading`."""
    metrics = PromptMetrics()
    theta, teacher = _texts(table, "theta_prompt"), _texts(table, "teacher_prompt")
    vocabulary = facts.vocabulary
    if theta is not None:
        metrics.theta_not_empty = _all(bool(prompt.strip()) for prompt in theta)
        if vocabulary:
            metrics.theta_one_bos = _one_bos(theta, vocabulary.theta_bos)
    if teacher is not None:
        metrics.teacher_not_empty = _all(bool(prompt.strip()) for prompt in teacher)
        if vocabulary:
            metrics.teacher_one_bos = _one_bos(teacher, vocabulary.teacher_bos)
    if theta is None or teacher is None or "example" not in table.column_names:
        return metrics
    examples: list[Mapping[str, Any]] = [row or {} for row in table["example"].to_pylist()]
    if "messages" in table.column_names and "completion" in table.column_names:
        metrics.messages = _all(
            _agrees(turns or [], prompt, completion or "")
            for turns, prompt, completion in zip(
                table["messages"].to_pylist(), theta, table["completion"].to_pylist(), strict=True
            )
        )
    # An empty prompt is one defect, not three.
    metrics.question = _all(
        not (prompt.strip() and shown.strip())
        or (
            _carries(prompt, row.get("question") or "", facts.theta_turn)
            and _carries(shown, row.get("question") or "", facts.teacher_turn)
        )
        for prompt, shown, row in zip(theta, teacher, examples, strict=True)
    )
    references = [[row[name] for name in REFERENCES if row.get(name)] for row in examples]
    metrics.referenced = _all(bool(given) for given in references)
    metrics.shown = _all(
        not prompt.strip() or any(stands_in(reference, prompt) for reference in given)
        for prompt, given in zip(teacher, references, strict=True)
    )
    earlier = _earlier_turns(table)
    pairs = [
        _frame(prompt, [row.get("question") or "", *turns], given)
        for prompt, row, turns, given in zip(theta, examples, earlier, references, strict=True)
    ]
    metrics.frames = np.array([frame for frame, _ in pairs], dtype=np.int64)
    metrics.leaked = np.array([leaked for _, leaked in pairs], dtype=np.int64)
    return metrics


@dataclass(slots=True)
class LeakCount:
    """The rows whose reference stands in theta's prompt because it was put there.

    A template may hold a row's answer by chance ("in 3 steps", "A, B or C"). Then the same words stand around
    other rows' questions, whose answers they are not. So a row is counted when what surrounds its question is
    found around no row whose reference it does not hold. Memory: 16 bytes a different pair.
    """

    _pairs: list[np.ndarray] = field(default_factory=list)  # [U, 2] each: different (frame, leaked) of a batch
    _counts: list[np.ndarray] = field(default_factory=list)  # [U] rows of each
    _names: dict[tuple[int, int], str] = field(default_factory=dict)  # of the first suspects

    def add(self, frames: np.ndarray, leaked: np.ndarray, names: Sequence[str] = ()) -> None:  # [N] int64 each
        """Take a batch; `names` [N] are what the rows are called in a message."""
        pairs, counts = np.unique(np.stack([frames, leaked], axis=1), axis=0, return_counts=True)
        self._pairs.append(pairs)
        self._counts.append(counts)
        if names:
            for place in np.flatnonzero(leaked != CLEAN)[: MAX_NAMED - len(self._names)]:
                self._names.setdefault((int(frames[place]), int(leaked[place])), names[place])

    def num_leaks(self) -> int:
        """How many rows leak."""
        pairs, counts = self._leaks()
        return int(counts.sum()) if len(pairs) else 0

    def first_leak(self) -> str | None:
        """The name of a row that leaks, of the first ones."""
        pairs = set(map(tuple, self._leaks()[0].tolist()))
        return next((name for pair, name in self._names.items() if pair in pairs), None)

    def _leaks(self) -> tuple[np.ndarray, np.ndarray]:
        """The pairs [U, 2] that are leaks, with their rows [U]."""
        if not self._pairs:
            return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
        pairs, places = np.unique(np.concatenate(self._pairs), axis=0, return_inverse=True)
        counts = np.bincount(places.reshape(-1), np.concatenate(self._counts))
        frames, num_kinds = np.unique(pairs[:, 0], return_counts=True)
        alone = num_kinds[np.searchsorted(frames, pairs[:, 0])] == 1
        leaks = alone & (pairs[:, 1] != CLEAN)
        return pairs[leaks], counts[leaks]


def stands_in(reference: str, text: str) -> bool:
    """Whether a text holds a reference: a long one whatever its white space, a short one as a word of its own."""
    squeezed = _squeezed(reference)
    if len(squeezed) >= SHORT:
        return reference in text or squeezed in _squeezed(text)
    words = " ".join(reference.split())
    if not words:
        return False
    if " " in words:
        text = " ".join(text.split())
    begin = text.find(words)
    while begin >= 0 and not _is_word(text, begin, begin + len(words)):
        begin = text.find(words, begin + 1)
    return begin >= 0


def _is_word(text: str, begin: int, end: int) -> bool:
    """Whether what stands there is no part of a longer word or number: 3 is none in 13, 3.5, 3,000 or .3."""
    before, after = text[max(0, begin - 2) : begin], text[end : end + 2]
    if _is_letter(text[begin]) and before and _is_letter(before[-1]):
        return False
    if _is_letter(text[end - 1]) and after and _is_letter(after[0]):
        return False
    if text[begin].isdigit() and ((before[-1:] == "." and not before[:-1].strip()) or NUMBER_BEFORE.fullmatch(before)):
        return False
    return not (text[end - 1].isdigit() and NUMBER_AFTER.fullmatch(after))


def _is_letter(character: str) -> bool:
    """Of a script that has a space between words: 东京 is a word of its own in 答案是东京吗."""
    return (character.isalnum() or character == "_") and not UNSPACED.match(character)


def _frame(prompt: str, asked: list[str], references: list[str]) -> tuple[int, int]:
    """What surrounds the question, hashed, with the hash of the first reference that it holds, CLEAN if none."""
    frame = prompt.replace(HELD, " ")
    for text in asked:
        frame = _without(frame, text)
    for reference in references:
        if stands_in(reference, frame) and not any(stands_in(reference, text) for text in asked):
            return hash(frame), hash(reference) or 1
    return hash(frame), CLEAN


def _agrees(turns: list[Any], theta_prompt: str, completion: str) -> bool:
    """Whether a conversation ends with what theta was asked, then with what was drawn: trainers read nothing else."""
    if len(turns) < 2 or not all(turns[-2:]):
        return False
    asked, drawn = (turn["content"] or "" for turn in turns[-2:])
    roles = [turn.get("role", role) for turn, role in zip(turns[-2:], ("user", "assistant"), strict=True)]
    if roles != ["user", "assistant"] or drawn != completion or not asked.strip():
        return False
    # An empty prompt is another defect.
    return not theta_prompt.strip() or asked in theta_prompt or _squeezed(asked) in _squeezed(theta_prompt)


def _carries(prompt: str, question: str, turn: Turn | None) -> bool:
    """Whether the prompt's last user turn, or the prompt where it has no turns, holds the question."""
    prompt = prompt.replace(HELD, " ")
    frame = _without(prompt, question)
    if turn is None or HELD not in frame:
        return HELD in frame
    # The question may spell a turn's beginning or end ("Q: "); a question of one letter may stand in these themselves.
    return HELD in _last_turn(frame, turn) or HELD in _without(_last_turn(prompt, turn), question)


def _last_turn(prompt: str, turn: Turn) -> str:
    """What stands in the last user turn, which begins where the one before has ended; "" where there is none."""
    end = prompt.rfind(turn.after)
    earlier = prompt.rfind(turn.after, 0, max(0, end))
    begin = prompt.find(turn.before, 0 if earlier < 0 else earlier + len(turn.after), max(0, end))
    return "" if begin < 0 else prompt[begin + len(turn.before) : end]


def _without(prompt: str, text: str) -> str:
    """A prompt with HELD wherever it holds a text.

    Where it does not to the letter, white space does not count: a special token that a row's text spells has a space
    in it since (sampling/prompts/templates.py), a chat template trims what stands in a turn.
    """
    text = text.replace(HELD, " ")
    wanted = _squeezed(text)
    if wanted and text in prompt:
        return prompt.replace(text, HELD)
    if not wanted or wanted not in _squeezed(prompt):
        return prompt
    places = [place for place, character in enumerate(prompt) if not character.isspace()]
    squeezed = "".join(prompt[place] for place in places)
    pieces: list[str] = []
    end, found = 0, squeezed.find(wanted)
    while found >= 0:
        past = found + len(wanted)
        pieces += [prompt[end : places[found]], HELD]
        end, found = places[past - 1] + 1, squeezed.find(wanted, past)
    return "".join([*pieces, prompt[end:]])


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _one_bos(prompts: list[str], bos: str | None) -> np.ndarray:
    return _all(not (bos and prompt.startswith(bos + bos)) for prompt in prompts)


def _earlier_turns(table: pa.Table) -> list[list[str]]:
    """What was said before the question, row by row: the messages but the last question and its answer."""
    if "messages" not in table.column_names:
        return [[] for _ in range(len(table))]
    return [[turn["content"] or "" for turn in (turns or [])[:-2] if turn] for turns in table["messages"].to_pylist()]


def _texts(table: pa.Table, name: str) -> list[str] | None:
    return [text or "" for text in table[name].to_pylist()] if name in table.column_names else None


def _all(values: Iterable[bool]) -> np.ndarray:
    return np.fromiter(values, dtype=bool)
