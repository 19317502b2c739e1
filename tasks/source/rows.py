"""A stream of prepared rows: each source row with its id and its two rendered prompts, or quarantined."""

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

NUM_HEAD_ROWS = 100  # rows inspected before sampling starts: format, columns, templates


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """A row that is ready to be sampled."""

    id: str  # 32 hex digits of the content; equal rows after the first get the suffix -1, -2, …
    fields: dict[str, Any]  # the source's columns, unchanged
    theta_prompt: str
    teacher_prompt: str
    messages: list[Message]  # theta's conversation, up to and including the turn to be answered
    example: Example  # the row in the fields that the quality gate compares with


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What was recognised in the source's first rows."""

    adapter: str
    columns: tuple[str, ...]  # of the first rows
    prompts: PromptsConfig  # resolved: theta and teacher are both set
    files: tuple[str, ...]
    fingerprint: str  # hex digits of the content and the limit, not of paths


def prepare_rows(
    source: SourceConfig,
    prompts: PromptsConfig,
    theta_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
) -> tuple[SourceReport, Iterator[PreparedRow | QuarantinedRow]]:
    """Recognise the source's format, then return a lazy stream of its prepared rows.

    Memory holds the first rows only; repeated rows are counted on disk. Raises SourceError if the source is missing,
    empty or unrecognised, TemplateError if a template cannot be compiled, names the reference in theta's prompt, or
    fails on each of the first rows; during iteration, SourceError if a file cannot be read further and OutputError if
    the disk is full.
    """
    opened = open_source(source)
    stream = islice(opened.rows(), source.limit)
    head = list(islice(stream, NUM_HEAD_ROWS))
    readable = [row for row in head if isinstance(row, SourceRow)]
    if not readable:
        raise SourceError(_unreadable_message(opened.files, head))
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
        for row in rows:
            yield row if isinstance(row, QuarantinedRow) else _prepare(adapter, theta, teacher, seen, row)


def _prepare(
    adapter: Adapter, theta: PromptTemplate, teacher: PromptTemplate, seen: Seen, row: SourceRow
) -> PreparedRow | QuarantinedRow:
    row_id = None
    try:
        row_id = _row_id(row.fields, seen)
        example = adapter.example(row.fields)
        fields = template_fields(row.fields, example)
        prompts = {"theta": theta.render(fields, example.history), "teacher": teacher.render(fields, example.history)}
        messages = _messages(theta, fields, example)
        for name, prompt in prompts.items():
            if not prompt.strip():
                raise EmptyPromptError(f"{name}'s prompt is empty")
    except RowError as error:
        return QuarantinedRow(row.location, error.reason, str(error), row_id)
    return PreparedRow(row_id, row.fields, prompts["theta"], prompts["teacher"], messages, example)


def _messages(theta: PromptTemplate, fields: dict[str, Any], example: Example) -> list[Message]:
    """Theta's prompt as a list of turns; with a plain template, the history and the bare question."""
    if theta.style == "chat":
        return theta.conversation(fields, example.history)
    turns: list[Message] = [*example.history, {"role": "user", "content": example.question}]
    return [{"role": turn["role"], "content": theta.neutralise(turn["content"])} for turn in turns]


def _row_id(fields: dict[str, Any], seen: Seen) -> str:
    digest = _digest(fields)
    num_before = seen.add(digest)
    return f"{digest.hex()}-{num_before}" if num_before else digest.hex()


def _digest(fields: dict[str, Any]) -> bytes:
    """Return a 16-byte BLAKE2b digest of a row's content, independent of the order of columns and of null columns.

    Raises BadRowError for invalid text and for values that are neither JSON nor one of Parquet's plain types.
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
    """Convert a value that JSON lacks, identically in every process (an image's repr would hold its address)."""
    if isinstance(value, bytes | date | time | timedelta | Decimal):
        return {type(value).__name__: repr(value)}
    raise BadRowError("wrong_type", f"a field is a {type(value).__name__}, which has no plain text")


def _compile(
    model: str, prompt: PromptConfig | None, tokenizer: PreTrainedTokenizerBase, hidden: Collection[str] = ()
) -> PromptTemplate:
    assert prompt is not None
    settings = prompt.model_dump(include={"style", "template", "system"})
    return PromptTemplate(tokenizer, **settings, hidden=hidden, name=f"prompts.{model}.template")


def _examples(adapter: Adapter, rows: list[SourceRow]) -> list[tuple[SourceRow, Example]]:
    """Return the first rows that the adapter can convert. Raises SourceError if there is none: the wrong adapter."""
    examples: list[tuple[SourceRow, Example]] = []
    failures: list[str] = []
    for row in rows:
        try:
            examples.append((row, adapter.example(row.fields)))
        except RowError as error:
            failures.append(f"{row.location}: {error.reason}: {error}")
    if not examples:
        raise SourceError(f"none of the first {len(rows)} rows can be used as {adapter.name}; {failures[0]}")
    return examples


def _check(template: PromptTemplate, examples: list[tuple[SourceRow, Example]]) -> None:
    """Raise TemplateError if the template fails on every one of the first rows."""
    errors: list[RowError] = []
    for row, example in examples:
        try:
            template.render(template_fields(row.fields, example), example.history)
            return
        except RowError as error:
            errors.append(error)
    raise TemplateError(str(errors[0])) from errors[0]


def _unreadable_message(files: tuple[str, ...], head: list[SourceRow | QuarantinedRow]) -> str:
    names = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    broken = next((row for row in head if isinstance(row, QuarantinedRow)), None)
    if broken is None:
        return f"the source is empty: no row in {names}"
    return f"none of the first {len(head)} rows of {names} can be read; {broken.row}: {broken.reason}: {broken.detail}"
