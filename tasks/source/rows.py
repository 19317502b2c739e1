"""The rows of a source, each with its two prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from sampling.errors import EmptyPromptError, RowError, SourceError, TemplateError
from sampling.prompts.templates import Message, PromptTemplate
from tasks.config import PromptConfig, PromptsConfig, SourceConfig
from tasks.source.example import BadRowError, Example, template_fields
from tasks.source.formats import Adapter
from tasks.source.readers import QuarantinedRow, SourceRow
from tasks.source.recognition import choose_adapter
from tasks.source.seen import Seen
from tasks.source.source import open_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PreparedRow", "QuarantinedRow", "SourceReport", "prepare_rows"]

NUM_HEAD_ROWS = 100  # rows looked at before the first is sampled: format, columns, templates


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """One row, ready to be sampled."""

    id: str  # 32 hex digits of the content; equal rows after the first add -1, -2, …
    fields: dict[str, Any]  # the source's own columns, untouched
    theta_prompt: str
    teacher_prompt: str
    messages: list[Message]  # theta's side of the conversation, up to the turn that is sampled
    example: Example  # the row in the words that the gate compares with


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What was recognised, before anything is sampled."""

    adapter: str
    columns: tuple[str, ...]  # of the first rows
    prompts: PromptsConfig  # resolved: both are given
    files: tuple[str, ...]
    fingerprint: str  # hex digits of the content and the limit, not of paths


def prepare_rows(
    source: SourceConfig,
    prompts: PromptsConfig,
    theta_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
) -> tuple[SourceReport, Iterator[PreparedRow | QuarantinedRow]]:
    """Recognise the source, then prepare its rows as they are asked for.

    Memory holds the first rows; which rows came before is counted on the disk. Raises SourceError when the source is
    missing, empty or unrecognised, TemplateError when a template cannot be compiled, names the reference in theta's
    prompt, or fails on each of the first rows; while the rows are taken, SourceError when a file cannot be read further
    and OutputError when the disk is full.
    """
    opened = open_source(source)
    stream = islice(opened.rows(), source.limit)
    head = list(islice(stream, NUM_HEAD_ROWS))
    readable = [row for row in head if isinstance(row, SourceRow)]
    if not readable:
        raise SourceError(_why_nothing_is_readable(opened.files, head))
    columns = tuple(dict.fromkeys(column for row in readable for column in row.fields))
    adapter = choose_adapter(source, columns, [row.fields for row in readable])
    examples = _examples(adapter, readable)
    defaults = adapter.default_prompts(
        theta_tokenizer, teacher_tokenizer, has_reference=any(example.answer for _, example in examples)
    )
    resolved = PromptsConfig(theta=prompts.theta or defaults.theta, teacher=prompts.teacher or defaults.teacher)
    theta = _compile("theta", resolved.theta, theta_tokenizer, hidden=adapter.hidden_fields)
    teacher = _compile("teacher", resolved.teacher, teacher_tokenizer)
    for template in (theta, teacher):
        _check(template, examples)
    report = SourceReport(adapter.name, columns, resolved, opened.files, opened.fingerprint)
    return report, _prepared(adapter, theta, teacher, chain(head, stream))


def _prepared(
    adapter: Adapter, theta: PromptTemplate, teacher: PromptTemplate, rows: Iterable[SourceRow | QuarantinedRow]
) -> Iterator[PreparedRow | QuarantinedRow]:
    with Seen() as seen:
        yield from map(_Preparation(adapter, theta, teacher, seen).prepare, rows)


class _Preparation:
    """Rows to prompts, one after the other; it remembers which rows it has seen."""

    def __init__(self, adapter: Adapter, theta: PromptTemplate, teacher: PromptTemplate, seen: Seen) -> None:
        self._adapter, self._theta, self._teacher, self._seen = adapter, theta, teacher, seen

    def prepare(self, row: SourceRow | QuarantinedRow) -> PreparedRow | QuarantinedRow:
        """One row with its prompts, or why it has none."""
        if isinstance(row, QuarantinedRow):
            return row
        row_id = None
        try:
            row_id = self._identify(row.fields)
            example = self._adapter.example(row.fields)
            fields = template_fields(row.fields, example)
            theta_prompt = self._theta.render(fields, example.history)
            teacher_prompt = self._teacher.render(fields, example.history)
            messages = self._messages(fields, example)
        except RowError as error:
            return QuarantinedRow(row.where, error.reason, str(error), row_id)
        for name, prompt in (("theta", theta_prompt), ("teacher", teacher_prompt)):
            if not prompt.strip():
                return QuarantinedRow(row.where, EmptyPromptError.reason, f"{name}'s prompt is empty", row_id)
        return PreparedRow(row_id, row.fields, theta_prompt, teacher_prompt, messages, example)

    def _messages(self, fields: dict[str, Any], example: Example) -> list[Message]:
        """What theta is asked, as turns; a plain template is no turn, so there the question stands for it."""
        if self._theta.style == "chat":
            return self._theta.conversation(fields, example.history)
        asked: list[Message] = [*example.history, {"role": "user", "content": example.question}]
        return [{"role": turn["role"], "content": self._theta.neutralise(turn["content"])} for turn in asked]

    def _identify(self, fields: dict[str, Any]) -> str:
        digest = _digest(fields)
        num_before = self._seen.add(digest)
        return f"{digest.hex()}-{num_before}" if num_before else digest.hex()


def _digest(fields: dict[str, Any]) -> bytes:
    """16 bytes of a row's content, whatever the order of its columns; a null column is no column.

    Raises BadRowError for what is no text, no JSON value and none of Parquet's plain types.
    """
    filled = {column: value for column, value in fields.items() if value is not None}
    try:
        text = json.dumps(filled, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
        return hashlib.blake2b(text.encode(), digest_size=16).digest()
    except UnicodeEncodeError as error:
        character = ascii(error.object[error.start])
        raise BadRowError("not_utf8", f"its text holds {character}, which is no character") from error
    except RecursionError as error:
        raise BadRowError("too_deep", "it nests too many lists or objects") from error


def _plain(value: Any) -> dict[str, str]:
    """A value that JSON lacks, the same in every process (an image's repr would hold its address)."""
    if isinstance(value, bytes | date | time | timedelta | Decimal):
        return {type(value).__name__: repr(value)}
    raise BadRowError("wrong_type", f"a field is a {type(value).__name__}, which has no plain text")


def _compile(
    model: str, prompt: PromptConfig | None, tokenizer: PreTrainedTokenizerBase, hidden: Collection[str] = ()
) -> PromptTemplate:
    assert prompt is not None
    return PromptTemplate(
        tokenizer,
        style=prompt.style,
        template=prompt.template,
        system=prompt.system,
        hidden=hidden,
        name=f"prompts.{model}.template",
    )


def _examples(adapter: Adapter, rows: list[SourceRow]) -> list[tuple[SourceRow, Example]]:
    """The first rows that the adapter can use; one at least, else it is the wrong adapter."""
    examples: list[tuple[SourceRow, Example]] = []
    refusals: list[str] = []
    for row in rows:
        try:
            examples.append((row, adapter.example(row.fields)))
        except RowError as error:
            refusals.append(f"{row.where}: {error.reason}: {error}")
    if not examples:
        raise SourceError(f"none of the first {len(rows)} rows can be used as {adapter.name}; {refusals[0]}")
    return examples


def _check(template: PromptTemplate, examples: list[tuple[SourceRow, Example]]) -> None:
    """Refuse a template that no row of the first ones can fill."""
    errors: list[RowError] = []
    for row, example in examples:
        try:
            template.render(template_fields(row.fields, example), example.history)
        except RowError as error:
            errors.append(error)
        else:
            return
    raise TemplateError(str(errors[0])) from errors[0]


def _why_nothing_is_readable(files: tuple[str, ...], head: list[SourceRow | QuarantinedRow]) -> str:
    names = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    broken = next((row for row in head if isinstance(row, QuarantinedRow)), None)
    if broken is None:
        return f"the source is empty: no row in {names}"
    return f"none of the first {len(head)} rows of {names} can be read; {broken.row}: {broken.reason}: {broken.detail}"
