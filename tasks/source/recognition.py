"""The selection of a source's adapter.

`adapter: auto` recognises a known format by the columns of the first rows; `source.columns` maps the columns of any
other; `adapter: package.module:Class` names a user's class, which is instantiated without arguments:

    class Riddles:
        reference_columns = ("reply",)  # hidden from theta's template
        def example(self, row: dict) -> Example:  # tasks.source.example; raise its BadRowError to quarantine the row
            return Example(question=row["riddle"], answer=row["reply"])
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sampling.errors import RowError, SourceError
from sampling.permissions import check_code
from tasks.config import SourceConfig
from tasks.source.companions import context, history, system, tools, use_companions
from tasks.source.conversations import read_conversation
from tasks.source.example import (
    BadRowError,
    Example,
    inner_field,
    is_filled,
    is_placeholder,
    listed,
    reference_field,
    text_field,
)
from tasks.source.formats import KNOWN_ADAPTERS, Adapter
from tasks.source.source_row import SourceRow

_REFERENCES = ("answer", "solution", "final_answer")
_COMPANIONS = {"history": history, "system": system, "tools": tools, "context": context}
MAPPED_FIELDS = ("question", *_REFERENCES, *_COMPANIONS)
FINAL_MARK = re.compile(r"####[^\n#]*\s*\Z")  # at an answer's end; elsewhere it is a heading
_ALIASES = {"deepscaler": "math"}


def choose_adapter(config: SourceConfig, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Adapter:
    """Return the adapter that `config` names, else the one that matches the `columns` of the first `rows`.

    Raises SourceError.
    """
    if config.columns is not None:
        if config.adapter != "auto":
            raise SourceError(f"source.columns and source.adapter {config.adapter!r} exclude each other; remove one")
        return _mapped(config.columns, columns, rows)
    if ":" in config.adapter:
        return _custom(config.adapter)
    if config.adapter != "auto":
        return _named(config.adapter, columns)
    for adapter in KNOWN_ADAPTERS:
        if adapter.name == "gsm8k" and not any(FINAL_MARK.search(str(row.get("answer"))) for row in rows):
            continue  # question_answer has the same columns, without a #### at the answer's end
        if any(needed <= set(columns) for needed in adapter.columns):
            return adapter
    raise SourceError(
        f"the rows are in no known format; columns seen: {listed(columns)}; formats known: {_known()}; name "
        "the columns in source.columns (question: …, answer: …), or give source.adapter: package.module:Class"
    )


def _named(name: str, columns: Sequence[str]) -> Adapter:
    adapters = {adapter.name: adapter for adapter in KNOWN_ADAPTERS}
    adapter = adapters.get(_ALIASES.get(name, name))
    if adapter is None:
        raise SourceError(f"source.adapter {name!r} is unknown; known: auto, {_known()}, or package.module:Class")
    if not any(needed <= set(columns) for needed in adapter.columns):
        needs = " or ".join(listed(sorted(needed)) for needed in adapter.columns)
        raise SourceError(f"source.adapter {name!r} needs the columns {needs}; columns seen: {listed(columns)}")
    return adapter


def _mapped(mapping: Mapping[str, str], columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Adapter:
    if unknown := sorted(mapping.keys() - set(MAPPED_FIELDS)):
        raise SourceError(f"source.columns maps {listed(unknown)}; fields known: {listed(MAPPED_FIELDS)}")
    if "question" not in mapping:
        raise SourceError(f"source.columns must map question; columns seen: {listed(columns)}")
    if absent := sorted(path for path in mapping.values() if _column(path, columns) not in columns):
        raise SourceError(f"source.columns names {listed(absent)}; columns seen: {listed(columns)}")

    def example(row: Mapping[str, Any]) -> Example:
        reference = {
            field: reference_field(row, mapping[field])
            for field in _REFERENCES
            if field in mapping and (field == "answer" or _is_answer(row, mapping[field]))
        }
        if isinstance(inner_field(row, mapping["question"]), list):
            asked = read_conversation(row, mapping["question"])
        else:
            asked = Example(text_field(row, mapping["question"]))
        if reference:
            solution = reference.get("solution")
            answer = reference.get("answer", solution)
            asked = replace(asked, answer=answer, solution=solution, final_answer=reference.get("final_answer"))
        beside = {field: inner_field(row, path) for field, path in mapping.items() if field in _COMPANIONS}
        return use_companions(asked, beside, _COMPANIONS)

    references = frozenset(_column(mapping[field], columns) for field in _REFERENCES if field in mapping)
    if any(isinstance(row.get(mapping["question"]), list) for row in rows):
        references |= {mapping["question"]}  # its last turn may be the answer
    used = frozenset(_column(path, columns) for path in mapping.values())
    return Adapter("columns", example, reference_columns=references, used=used)


def _column(path: str, columns: Sequence[str]) -> str:
    """Return the column that a path such as `reward_model.ground_truth` begins in."""
    return path if path in columns else path.partition(".")[0]


def _is_answer(row: Mapping[str, Any], column: str) -> bool:
    return is_filled(row, column) and not is_placeholder(str(inner_field(row, column)))


def _custom(spec: str) -> Adapter:
    check_code(f"source.adapter {spec!r}")
    module_name, _, class_name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that it shadows no package
    try:
        custom = getattr(importlib.import_module(module_name), class_name)()
        references, convert = frozenset(custom.reference_columns), custom.example
    except Exception as error:  # importing the user's module may raise anything
        raise SourceError(
            f"source.adapter {spec!r} cannot be used: {type(error).__name__}: {error}; it names a class made without "
            "arguments, with reference_columns and example(row)"
        ) from error

    def example(row: Mapping[str, Any]) -> Example:
        try:
            result = convert(dict(row))
        except RowError:
            raise
        except Exception as error:
            raise BadRowError("adapter_failed", f"{spec}: {type(error).__name__}: {error}") from error
        if not isinstance(result, Example):
            found = type(result).__name__
            raise BadRowError("adapter_failed", f"{spec} gave a {found}, no tasks.source.example.Example")
        return result

    return Adapter(spec, example, reference_columns=references)


def convertible(adapter: Adapter, rows: list[SourceRow]) -> list[tuple[SourceRow, Example]]:
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


def _known() -> str:
    return "; ".join(
        f"{adapter.name} ({' or '.join(listed(sorted(needed)) for needed in adapter.columns)})"
        for adapter in KNOWN_ADAPTERS
    )
