"""A stream of prepared rows: each source row with its id and its two rendered prompts, or quarantined."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from sampling.bounds import Bounds
from sampling.errors import RowError, SourceError, TemplateError
from sampling.prompts.templates import Message, Prompt, PromptTemplate, RenderLimitError, Row
from tasks.config import PromptConfig, PromptsConfig, SourceConfig
from tasks.source.companions import MERGED
from tasks.source.example import Example, identifier, listed, template_fields
from tasks.source.formats import Adapter
from tasks.source.recognition import choose_adapter, convertible
from tasks.source.seen import Seen
from tasks.source.source import open_source
from tasks.source.source_row import QuarantinedRow, Rows, SourceRow, content_of, value_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PreparedRow", "QuarantinedRow", "SourceReport", "prepare_rows"]

NUM_HEAD_ROWS = 100  # rows inspected before sampling starts: format, columns, templates
HEAD_BYTES = 16 << 20  # of them
NUM_BEYOND = 3  # rows, the shortest ones, that go beyond the bounds of rendering: then the template itself does
BATCH_ROWS, BATCH_BYTES = 256, 8 << 20  # rendered and encoded at a time


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """A row that is ready to be sampled."""

    id: str  # 32 hex digits of the content; equal rows after the first get the suffix -1, -2, …
    fields: dict[str, Any]  # the source's columns, unchanged
    theta_prompt: str
    teacher_prompt: str
    theta_prompt_ids: list[int]
    teacher_prompt_ids: list[int]
    messages: list[Message]  # theta's conversation up to the answer, with what its chat template begins that with
    example: Example  # the row in the fields that the quality gate compares with


@dataclass(frozen=True, slots=True)
class _Recognised:
    """A row in the common schema, without its prompts yet."""

    source: SourceRow
    id: str
    num_bytes: int  # of its content
    example: Example


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What was recognised in the source's first rows."""

    adapter: str
    columns: tuple[str, ...]  # of the first rows
    prompts: PromptsConfig  # resolved: theta and teacher are both set
    files: tuple[str, ...]
    fingerprint: str  # hex digits of the content and the limit, not of paths
    hidden: frozenset[str] = frozenset()  # the variables of templates that hold the reference
    notes: tuple[str, ...] = ()  # what was found and is not used, a line each


def prepare_rows(
    source: SourceConfig,
    prompts: PromptsConfig,
    theta_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    bounds: Bounds | None = None,
) -> tuple[SourceReport, Iterator[PreparedRow | QuarantinedRow]]:
    """Recognise the source's format, then return a lazy stream of its prepared rows.

    Memory holds the first rows only; repeated rows are counted on disk. Raises SourceError if the source is missing,
    empty or unrecognised, TemplateError if a template cannot be compiled, names the reference in theta's prompt, or
    fails on each of the first rows; during iteration, SourceError if a file cannot be read further and OutputError if
    the disk is full.
    """
    opened = open_source(source, bounds)
    stream = islice(opened.rows(), source.limit)
    head = _head(stream)
    readable = [row for row in head if isinstance(row, SourceRow)]
    if not readable:
        raise SourceError(_unreadable_message(opened.files, head))
    columns = tuple(dict.fromkeys(column for row in readable for column in row.fields))
    adapter = choose_adapter(source, columns, [row.fields for row in readable])
    examples = convertible(adapter, readable)
    defaults = adapter.default_prompts(
        theta_tokenizer,
        teacher_tokenizer,
        has_reference=any(example.answer for _, example in examples),
        lacks_reference=not all(example.answer for _, example in examples),
        has_history=any(example.history for _, example in examples),
    )
    resolved = PromptsConfig(theta=prompts.theta or defaults.theta, teacher=prompts.teacher or defaults.teacher)
    theta = _compile("theta", resolved.theta, theta_tokenizer, bounds, hidden=adapter.hidden_fields)
    teacher = _compile("teacher", resolved.teacher, teacher_tokenizer, bounds)
    for template in (theta, teacher):
        _check(template, examples)
    notes = opened.notes + tuple(_unused(adapter, columns, [example for _, example in examples], theta, teacher))
    report = SourceReport(
        adapter.name, columns, resolved, opened.files, opened.fingerprint, adapter.hidden_fields, notes
    )
    return report, _prepared(adapter, theta, teacher, chain(head, stream))


def _head(stream: Rows) -> list[SourceRow | QuarantinedRow]:
    """Return the first rows, fewer if they are large: they stay in memory together."""
    head: list[SourceRow | QuarantinedRow] = []
    num_bytes = 0
    while len(head) < NUM_HEAD_ROWS and num_bytes < HEAD_BYTES and (row := next(stream, None)) is not None:
        head.append(row)
        num_bytes += value_bytes(row.fields) if isinstance(row, SourceRow) else 0
    return head


def _unused(
    adapter: Adapter, columns: tuple[str, ...], examples: list[Example], theta: PromptTemplate, teacher: PromptTemplate
) -> Iterator[str]:
    """Yield, a line each, what of the first rows no prompt is made of."""
    named = theta.fields | teacher.fields
    if adapter.used is not None:
        unused = [name for name in columns if name not in adapter.used and identifier(name) not in named]
        if unused:
            yield f"not used: {listed(unused)}"
    for template in (theta, teacher):
        if template.style == "plain":
            for field in ("history", "tools"):
                if any(getattr(example, field) for example in examples) and field not in template.fields:
                    yield f"not used: the rows' {field}, which {template.name} does not name"


def _prepared(
    adapter: Adapter, theta: PromptTemplate, teacher: PromptTemplate, rows: Iterable[SourceRow | QuarantinedRow]
) -> Iterator[PreparedRow | QuarantinedRow]:
    with Seen() as seen:
        for batch in _batches(_recognise(adapter, seen, row) for row in rows):
            good = [row for row in batch if isinstance(row, _Recognised)]
            prompts = (
                model.prompts([_row(row.source, row.example, model) for row in good]) for model in (theta, teacher)
            )
            pairs = zip(*prompts, strict=True)
            for row in batch:
                yield row if isinstance(row, QuarantinedRow) else _prepare(theta, row, *next(pairs))


def _batches(rows: Iterable[_Recognised | QuarantinedRow]) -> Iterator[list[_Recognised | QuarantinedRow]]:
    batch: list[_Recognised | QuarantinedRow] = []
    num_bytes = 0
    try:
        for row in rows:
            batch.append(row)
            num_bytes += row.num_bytes if isinstance(row, _Recognised) else 0
            if len(batch) == BATCH_ROWS or num_bytes > BATCH_BYTES:
                yield batch
                batch, num_bytes = [], 0
    except SourceError:  # after the rows before it
        yield batch
        raise
    yield batch


def _recognise(adapter: Adapter, seen: Seen, row: SourceRow | QuarantinedRow) -> _Recognised | QuarantinedRow:
    if isinstance(row, QuarantinedRow):
        return row
    row_id = None
    try:
        content = content_of(row.fields)
        row_id = _row_id(content, seen)
        return _Recognised(row, row_id, len(content), adapter.example(row.fields))
    except RowError as error:
        return QuarantinedRow(row.location, error.reason, str(error), row_id)


def _prepare(
    template: PromptTemplate, row: _Recognised, theta: Prompt | RowError, teacher: Prompt | RowError
) -> PreparedRow | QuarantinedRow:
    """Put a row and its prompts together; `template` is theta's."""
    try:
        if isinstance(theta, RowError):
            raise theta
        if isinstance(teacher, RowError):
            raise teacher
        messages = theta.messages if template.style == "chat" else _messages(template, row.example)
        template.encoder.refuse_forged([turn["content"] for turn in messages])
    except RowError as error:
        return QuarantinedRow(row.source.location, error.reason, str(error), row.id)
    prompts = theta.text, teacher.text, theta.ids, teacher.ids
    return PreparedRow(row.id, row.source.fields, *prompts, messages, row.example)


def _messages(theta: PromptTemplate, example: Example) -> list[Message]:
    """Return the history and the bare question, for a plain template."""
    turns: list[Message] = [*example.history, {"role": "user", "content": example.question}]
    return [{"role": turn["role"], "content": theta.neutralise(turn["content"])} for turn in turns]


def _row(row: SourceRow, example: Example, template: PromptTemplate) -> Row:
    """Return what a template reads; one that names a passage or choices itself gets the question without them."""
    fields = template_fields(row.fields, example)
    asked = row.fields.get("question")
    if isinstance(asked, str) and asked in example.question and not MERGED.isdisjoint(template.fields):
        fields["question"] = asked
    return Row(fields, example.history, example.tools)


def _row_id(content: bytes, seen: Seen) -> str:
    digest = _digest(content)
    num_before = seen.add(digest)
    return f"{digest.hex()}-{num_before}" if num_before else digest.hex()


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _compile(
    model: str,
    prompt: PromptConfig | None,
    tokenizer: PreTrainedTokenizerBase,
    bounds: Bounds | None,
    hidden: Collection[str] = (),
) -> PromptTemplate:
    assert prompt is not None
    name = f"prompts.{model}.template"
    return PromptTemplate(tokenizer, **dict(prompt), hidden=hidden, name=name, bounds=bounds)


def _check(template: PromptTemplate, examples: list[tuple[SourceRow, Example]]) -> None:
    """Raise TemplateError if the template fails on every one of the first rows, or goes beyond its bounds on three."""
    errors: list[RowError] = []
    for row, example in sorted(examples, key=lambda pair: len(pair[1].question)):
        (result,) = template.prompts([_row(row, example, template)])
        if not isinstance(result, RowError):
            return
        errors.append(result)
        if sum(isinstance(error, RenderLimitError) for error in errors) == NUM_BEYOND:
            break
    raise TemplateError(str(errors[-1]))


def _unreadable_message(files: tuple[str, ...], head: list[SourceRow | QuarantinedRow]) -> str:
    names = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    broken = next((row for row in head if isinstance(row, QuarantinedRow)), None)
    if broken is None:
        return f"the source is empty: no row in {names}"
    return f"none of the first {len(head)} rows of {names} can be read; {broken.row}: {broken.reason}: {broken.detail}"
