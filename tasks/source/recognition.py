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
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sampling.errors import RowError, SourceError
from sampling.permissions import check_code
from tasks.config import SourceConfig
from tasks.source.example import BadRowError, Example, is_filled, listed, reference_field, text_field
from tasks.source.formats import KNOWN_ADAPTERS, Adapter

MAPPED_FIELDS = ("question", "answer", "solution", "final_answer")
_ALIASES = {"deepscaler": "math"}


def choose_adapter(config: SourceConfig, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Adapter:
    """Return the adapter that `config` names, else the one that matches the `columns` of the first `rows`.

    Raises SourceError.
    """
    if config.columns is not None:
        if config.adapter != "auto":
            raise SourceError(f"source.columns and source.adapter {config.adapter!r} exclude each other; remove one")
        return _mapped(config.columns, columns)
    if ":" in config.adapter:
        return _custom(config.adapter)
    if config.adapter != "auto":
        return _named(config.adapter, columns)
    for adapter in KNOWN_ADAPTERS:
        if adapter.name == "gsm8k" and not any("####" in str(row.get("answer")) for row in rows):
            continue  # question_answer has the same columns, without a #### in the answer
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


def _mapped(mapping: Mapping[str, str], columns: Sequence[str]) -> Adapter:
    if unknown := sorted(mapping.keys() - set(MAPPED_FIELDS)):
        raise SourceError(f"source.columns maps {listed(unknown)}; fields known: {listed(MAPPED_FIELDS)}")
    if "question" not in mapping:
        raise SourceError(f"source.columns must map question; columns seen: {listed(columns)}")
    if absent := sorted(set(mapping.values()) - set(columns)):
        raise SourceError(f"source.columns names {listed(absent)}; columns seen: {listed(columns)}")

    def example(row: Mapping[str, Any]) -> Example:
        reference = {
            field: reference_field(row, column)
            for field, column in mapping.items()
            if field == "answer" or (field != "question" and is_filled(row, column))
        }
        solution = reference.get("solution")
        return Example(
            question=text_field(row, mapping["question"]),
            answer=reference.get("answer", solution),
            solution=solution,
            final_answer=reference.get("final_answer"),
        )

    references = frozenset(column for field, column in mapping.items() if field != "question")
    return Adapter("columns", example, reference_columns=references)


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


def _known() -> str:
    return "; ".join(
        f"{adapter.name} ({' or '.join(listed(sorted(needed)) for needed in adapter.columns)})"
        for adapter in KNOWN_ADAPTERS
    )
