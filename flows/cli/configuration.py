"""Read a pipeline's configuration file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from flows.cli.schema import Node, describe, find, known_keys, root
from sampling.errors import ConfigurationError
from tasks.config import PipelineConfig

MAX_SHOWN = 80  # characters of a refused value that a message shows


def load_config(path: str | Path, overrides: Sequence[str] = (), output: str | None = None) -> PipelineConfig:
    """The configuration in a YAML file, with `a.b=c` overrides applied in order.

    `output` replaces `publish.root`.
    Raises ConfigurationError, in one line: the path of the key, the value given, what is allowed.
    """
    values = _read(Path(path))
    for override in overrides:
        _override(values, override)
    if output is not None:
        _put(values, ["publish", "root"], output, "--output")
    try:
        return PipelineConfig.model_validate(_frozen(values), strict=True)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_one_line(error)}") from None
    except RecursionError:
        raise ConfigurationError(f"{path}: a YAML alias refers to itself; write the value out") from None


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but with 1e-6 a number and a key given twice an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError(f"{where}{place}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; give the path of a YAML file") from None
    values = _parse(text, str(path))
    if values is None:
        raise ConfigurationError(f"{path}: empty; flows/configs/base.yaml shows every key")
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: {_shown(values)} is not {describe(root())}")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    """Applies one `a.b=c`."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigurationError(f"--set {override}: write it as section.key=value")
    _put(values, keys, _override_value(text, override, find(keys)[1]), f"--set {override}")


def _put(values: dict[str, Any], keys: Sequence[str], value: Any, where: str) -> None:
    """Sets one key; sections on the way are created."""
    section = values
    for i, name in enumerate(keys[:-1]):
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            path = ".".join(keys[: i + 1])
            raise ConfigurationError(f"{where}: {path} holds {_shown(section)}, which is not a section")
    section[keys[-1]] = value


def _override_value(text: str, override: str, wanted: Node | None) -> Any:
    """The text as YAML, but as it stands for a key that only text suits: a template is full of braces."""
    only_text = wanted is not None and {option.get("type") for option in wanted.options} <= {"string", "null"}
    try:
        value = _parse(text, f"--set {override}")
    except ConfigurationError:
        if only_text:
            return text
        raise
    return text if only_text and not isinstance(value, str | None) else value


def _frozen(value: Any) -> Any:
    """Lists as tuples, which is what the strict schema holds."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _one_line(error: ValidationError) -> str:
    """The first error with its path, an unknown key before all others: it often explains them."""
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    lines: dict[str, str] = {}
    for detail in details:
        path, node = find(detail["loc"])
        lines.setdefault(path, _explain(path, node, detail))
    first, *others = lines.values()
    return first + (f" (and {len(others)} more)" if others else "")


def _explain(path: str, node: Node | None, detail: Any) -> str:
    if detail["type"] == "value_error":
        message = str(detail["ctx"]["error"])
        return f"{path}: {message}" if path else message
    if node is None:
        return _unknown_key(detail)
    if detail["type"] == "missing":
        return f"{path}: missing; give {describe(node)}"
    quote = ", in quotes" if detail["type"] == "string_type" and isinstance(detail["input"], int | float) else ""
    return f"{path}: {_shown(detail['input'])} is not allowed; give {describe(node)}{quote}"


def _unknown_key(detail: Any) -> str:
    *sections, key = map(str, detail["loc"])
    path, parent = find(sections)
    known = known_keys(parent) if parent else []
    near = get_close_matches(key, known, n=3) or [
        f"{section}.{key}" for section in known_keys(root()) if find([section, key])[1]
    ]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return (
        f"{'.'.join([path, key] if path else [key])}: unknown key, with the value {_shown(detail['input'])}; "
        f"{hint}known here: {', '.join(known)}"
    )


def _shown(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
