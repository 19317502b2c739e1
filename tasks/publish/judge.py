"""The quality gate for a dataset in a folder, with its own or other limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import ValidationError

from sampling.errors import ConfigurationError, SourceError
from tasks.publish.dataset import Dataset, first_line
from validations.limits import Limits
from validations.suites import check_names

if TYPE_CHECKING:
    from validations.verdict import Verdict


def judge_again(dataset: Dataset, limits: Limits | None = None) -> Verdict:
    """Judge a dataset by `limits`, or those it was made with. Nothing is written.

    Raises SourceError when data behind a file's schema are damaged.
    """
    from validations.gate import judge  # Great Expectations takes 5-11 s to import

    try:
        return judge(dataset.files, limits or dataset.limits, dataset.metadata)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{dataset.address} cannot be read to its end: {first_line(error)}") from error


def changed_limits(limits: Limits, changes: Sequence[str]) -> Limits:
    """Return limits with `changes`, each the `name=value` of a `--set`. Raises ConfigurationError."""
    import yaml

    values = limits.model_dump()
    for change in changes:
        name, equals, text = change.partition("=")
        name = name.strip().removeprefix("validation.")
        check, is_severity = name.removeprefix("severity."), name.startswith("severity.")
        if not equals or (not is_severity and name not in values):
            raise ConfigurationError(f"--set {change}: write it as name=value; limits: {', '.join(values)}")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: the date 2026-13-01
            raise ConfigurationError(f"--set {change[:100]}: {text[:100]!r} is no value") from None
        if is_severity:
            values["severity"] = {**values["severity"], check: value}
        else:
            values[name] = value
    severity = values["severity"] if isinstance(values["severity"], dict) else {}
    if unknown := [name for name in severity if name not in check_names()]:
        raise ConfigurationError(
            f"--set severity.{unknown[0]}: there is no such check; there are: {', '.join(check_names())}"
        )
    try:
        return Limits.model_validate(values, strict=False)  # YAML 1.1 reads 1e-5 as text
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        raise ConfigurationError(f"--set {path}={first['input']!r}: {first['msg']}") from None
