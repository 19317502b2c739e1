"""The verdict on a dataset in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import ValidationError

from sampling.errors import ConfigurationError, SourceError
from tasks.publish.dataset import Dataset
from validations.limits import Limits
from validations.suites import check_names

if TYPE_CHECKING:
    from validations.verdict import Verdict


def judge_again(dataset: Dataset, limits: Limits | None = None) -> Verdict:
    """Judge by the limits the dataset was made with, or by others. Nothing is written.

    Raises SourceError where a file is damaged past its schema.
    """
    from validations.gate import judge  # Great Expectations takes 5-11 s to import

    try:
        return judge(dataset.files, limits or dataset.limits, dataset.facts)
    except (OSError, pa.ArrowException) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{dataset.address} cannot be read to its end: {said}") from error


def changed_limits(limits: Limits, changes: Sequence[str]) -> Limits:
    """Limits with `name=value` put in, as `--set` gives them. Raises ConfigurationError."""
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
        except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: 2026-13-01
            raise ConfigurationError(f"--set {change[:100]}: {text[:100]!r} is no value") from None
        if is_severity:
            values["severity"] = {**values["severity"], check: value}
        else:
            values[name] = value
    given = values["severity"] if isinstance(values["severity"], dict) else {}
    if unknown := [name for name in given if name not in check_names()]:
        raise ConfigurationError(
            f"--set severity.{unknown[0]}: there is no such check; there are: {', '.join(check_names())}"
        )
    try:
        return Limits.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        raise ConfigurationError(f"--set {path}={first['input']!r}: {first['msg']}") from None
