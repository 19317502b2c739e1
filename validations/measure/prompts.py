"""Checks of each row's two prompts against the row that they were rendered from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from validations.measure.leaks import CLEAN, contains_reference, singles_out, squeezed
from validations.measure.metadata import DatasetMetadata, Turn

REFERENCES = ("final_answer", "answer", "solution")
MARK = "\0"  # replaces a text that a prompt holds
SPACES = np.array([point for point in range(0x3001) if chr(point).isspace()], dtype=np.uint32)
MAX_TURNS = 64  # earlier turns that are looked for in a prompt: each takes a pass over it


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


def _frame(prompt: str, texts: list[str], references: list[str]) -> tuple[int, int]:
    """Return the hash of the prompt without `texts`, and that of the first reference in it, CLEAN if none."""
    frame = prompt.replace(MARK, " ")
    for text in texts[: MAX_TURNS + 1]:
        frame = _without(frame, text)
    rest = "\n".join(texts[MAX_TURNS + 1 :])
    for reference in references:
        if singles_out(reference, frame) and not (rest and contains_reference(reference, rest)):
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
    return not theta_prompt.strip() or MARK in _without(theta_prompt, question)


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
    and a chat template trims the text of a turn. A template may write a heading between two paragraphs (Alpaca's
    instruction and input): then each is marked, if all are there in their order.
    """
    text = text.replace(MARK, " ")
    if not text.strip():
        return prompt
    if text in prompt:
        return prompt.replace(text, MARK)
    points = np.frombuffer(prompt.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    indices = np.flatnonzero(~np.isin(points, SPACES))
    characters = squeezed(prompt)
    if found := _ranges(characters, [squeezed(text)], again=True):
        return _marked(prompt, indices, found)
    paragraphs = [part for paragraph in text.split("\n\n") if (part := squeezed(paragraph))]
    found = _ranges(characters, paragraphs) if len(paragraphs) > 1 else []
    return _marked(prompt, indices, found) if found else prompt


def _ranges(characters: str, parts: list[str], *, again: bool = False) -> list[tuple[int, int]]:
    """Return begin and end of each part, one after the other, [] if one is missing; `again`: of all occurrences."""
    ranges, end = [], 0
    for part in parts:
        begin = characters.find(part, end)
        if begin < 0:
            return []
        while begin >= 0:
            end = begin + len(part)
            ranges.append((begin, end))
            begin = characters.find(part, end) if again else -1
    return ranges


def _marked(prompt: str, indices: np.ndarray, ranges: list[tuple[int, int]]) -> str:
    """Return a prompt with MARK in place of ranges of its characters [K] that are no white space."""
    pieces, end = [], 0
    for begin, past in ranges:
        pieces += [prompt[end : indices[begin]], MARK]
        end = int(indices[past - 1]) + 1
    return "".join([*pieces, prompt[end:]])


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
