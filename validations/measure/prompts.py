"""Checks of each row's two prompts against the row that they were rendered from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from validations.measure.metadata import DatasetMetadata, Turn

SHORT = 16  # characters; a shorter reference counts only as a whole word
REFERENCES = ("final_answer", "answer", "solution")
NUMBER_BEFORE, NUMBER_AFTER = re.compile(r"\d[.,]"), re.compile(r"[.,]\d")
# Scripts without spaces: Thai to Myanmar, Khmer, Han with kana; Hangul has them, but not before particles.
UNSPACED = re.compile("[\u0e00-\u109f\u1780-\u17ff\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
MARK = "\0"  # replaces a text that a prompt holds
MAX_NAMED = 10_000  # suspected leaks whose names are kept
CLEAN = 0  # in place of the hash of a reference: the prompt holds none


@dataclass(slots=True)
class PromptMetrics:
    """Metrics of the prompts of N rows; None where the dataset lacks a column."""

    theta_not_empty: np.ndarray | None = None  # [N] bool
    teacher_not_empty: np.ndarray | None = None
    theta_one_bos: np.ndarray | None = None
    teacher_one_bos: np.ndarray | None = None
    question: np.ndarray | None = None  # [N] bool, both prompts hold it inside the user's turn
    referenced: np.ndarray | None = None  # [N] bool, the source has a reference
    carried: np.ndarray | None = None  # [N] bool, the teacher's prompt holds a reference
    messages: np.ndarray | None = None  # [N] bool, they end with the row's question and completion
    frames: np.ndarray | None = None  # [N] int64 hash of theta's prompt without the question
    leaked: np.ndarray | None = None  # [N] int64 hash of the reference that it holds, else CLEAN


def judge_prompts(table: pa.Table, metadata: DatasetMetadata) -> PromptMetrics:
    """Return the metrics of a batch with the columns of `validations.measure.reading`."""
    metrics = PromptMetrics()
    theta, teacher = _texts(table, "theta_prompt"), _texts(table, "teacher_prompt")
    vocabulary = metadata.vocabulary
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
    # An empty prompt is one defect, which theta_not_empty and teacher_not_empty report.
    metrics.question = _all(
        not (prompt.strip() and other.strip())
        or (
            _carries(prompt, row.get("question") or "", metadata.theta_turn)
            and _carries(other, row.get("question") or "", metadata.teacher_turn)
        )
        for prompt, other, row in zip(theta, teacher, examples, strict=True)
    )
    references = [[row[name] for name in REFERENCES if row.get(name)] for row in examples]
    metrics.referenced = _all(bool(given) for given in references)
    metrics.carried = _all(
        not prompt.strip() or any(contains_reference(reference, prompt) for reference in given)
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
    """Count of rows whose reference was put into theta's prompt.

    A template may hold a row's answer by chance ("in 3 steps", "A, B or C"). Then the same frame, the prompt without
    the question, occurs in rows with other answers. So a row counts as a leak if its frame occurs with no other
    reference, nor without one. Memory: 16 bytes a distinct pair of frame and reference.
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
    """Return whether a text holds a reference: a long one up to white space, a short one as a whole word."""
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


def _frame(prompt: str, texts: list[str], references: list[str]) -> tuple[int, int]:
    """Return the hash of the prompt without `texts`, and that of the first reference in it, CLEAN if none."""
    frame = prompt.replace(MARK, " ")
    for text in texts:
        frame = _without(frame, text)
    for reference in references:
        if contains_reference(reference, frame) and not any(contains_reference(reference, text) for text in texts):
            return hash(frame), hash(reference) or 1
    return hash(frame), CLEAN


def _agrees(turns: list[Any], theta_prompt: str, completion: str) -> bool:
    """Return whether a conversation ends with theta's question and the completion: trainers read nothing else."""
    if len(turns) < 2 or not all(turns[-2:]):
        return False
    question, answer = (turn["content"] or "" for turn in turns[-2:])
    roles = [turn.get("role", role) for turn, role in zip(turns[-2:], ("user", "assistant"), strict=True)]
    if roles != ["user", "assistant"] or not answer.endswith(completion) or not question.strip():
        return False
    if not theta_prompt.endswith(answer[: len(answer) - len(completion)]):  # a chat template may begin the answer
        return False
    # theta_not_empty reports an empty prompt.
    return not theta_prompt.strip() or question in theta_prompt or _squeezed(question) in _squeezed(theta_prompt)


def _carries(prompt: str, question: str, turn: Turn | None) -> bool:
    """Return whether the prompt's last user turn, or the prompt where it has no turns, holds the question."""
    prompt = prompt.replace(MARK, " ")
    frame = _without(prompt, question)
    if turn is None or MARK not in frame:
        return MARK in frame
    # The question may contain a turn's beginning or end ("Q: "); these may contain a question of one letter.
    return MARK in _last_turn(frame, turn) or MARK in _without(_last_turn(prompt, turn), question)


def _last_turn(prompt: str, turn: Turn) -> str:
    """Return the text of the last user turn, which begins after the end of the one before; "" without one."""
    end = prompt.rfind(turn.after)
    earlier = prompt.rfind(turn.after, 0, max(0, end))
    begin = prompt.find(turn.before, 0 if earlier < 0 else earlier + len(turn.after), max(0, end))
    return "" if begin < 0 else prompt[begin + len(turn.before) : end]


def _without(prompt: str, text: str) -> str:
    """Return a prompt with MARK in place of each occurrence of a text, or of each up to white space if there is none.

    Rendering changes white space: a special token inside a row's text gets a space (sampling/prompts/templates.py),
    and a chat template trims the text of a turn.
    """
    text = text.replace(MARK, " ")
    squeezed = _squeezed(text)
    if squeezed and text in prompt:
        return prompt.replace(text, MARK)
    if not squeezed or squeezed not in _squeezed(prompt):
        return prompt
    indices = [index for index, character in enumerate(prompt) if not character.isspace()]
    characters = "".join(prompt[index] for index in indices)
    pieces: list[str] = []
    end, found = 0, characters.find(squeezed)
    while found >= 0:
        past = found + len(squeezed)
        pieces += [prompt[end : indices[found]], MARK]
        end, found = indices[past - 1] + 1, characters.find(squeezed, past)
    return "".join([*pieces, prompt[end:]])


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _one_bos(prompts: list[str], bos: str | None) -> np.ndarray:
    return _all(not (bos and prompt.startswith(bos + bos)) for prompt in prompts)


def _earlier_turns(table: pa.Table) -> list[list[str]]:
    """Return the messages of each row but the last question and its answer."""
    if "messages" not in table.column_names:
        return [[] for _ in range(len(table))]
    return [[turn["content"] or "" for turn in (turns or [])[:-2] if turn] for turns in table["messages"].to_pylist()]


def _texts(table: pa.Table, name: str) -> list[str] | None:
    return [text or "" for text in table[name].to_pylist()] if name in table.column_names else None


def _all(values: Iterable[bool]) -> np.ndarray:
    return np.fromiter(values, dtype=bool)
