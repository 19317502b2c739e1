"""The reader of a pipeline's YAML configuration file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from sampling.bounds import CONFIG_BYTES, CONFIG_NODES
from sampling.errors import ConfigurationError
from tasks.config import PipelineConfig

MAX_SHOWN = 80  # characters of a refused value that a message quotes
TOO_MANY = f"more than {CONFIG_NODES} keys and values, an alias counted as what it stands for"
MAX_ERRORS = 20  # of a configuration, that a message tells: the nearest key to an unknown one takes 1 ms
MAX_DEPTH = 32  # levels of a configuration, which has five
MAX_DIGITS = 400  # of a number: those in base 60 ("1:59:59") take quadratic time
SECRET_KEY = re.compile(r"(key|token|secret|password|passwd|credential)s?$", re.IGNORECASE)  # its value is not quoted
USER = re.compile(r"://[^/\s]*@")  # nor are a user and a password in a URL


def load_config(path: str | Path, overrides: Sequence[str] = (), output: str | None = None) -> PipelineConfig:
    """Return the configuration in a YAML file, with `a.b=c` overrides applied in order.

    `output` replaces `publish.root`.
    Raise ConfigurationError, one line: for each wrong key its path, the value given, what is allowed.
    """
    values = _read(Path(path))
    for override in overrides:
        _override(values, override)
    if output is not None:
        _put(values, ["publish", "root"], output, "--output")
    try:
        values = _tuples(values)
        return PipelineConfig.model_validate(values, strict=True)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_message(error, values)}") from None


class _BoundError(yaml.MarkedYAMLError):
    """More than a configuration holds."""


def _bound(fits: bool, problem: str, event: Any) -> None:  # yaml.Event, whose stubs know another Mark
    if not fits:
        raise _BoundError(problem=problem, problem_mark=event.start_mark)


class _Loader(yaml.SafeLoader):
    """PyYAML's YAML 1.1 loader, except that 1e-6 is a number, a duplicate key an error, and what it holds bounded."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_nodes = self._depth = 0
        self._sizes: dict[int, int] = {}  # of the nodes that are complete, by their id, in nodes

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event, before = self.peek_event(), self._num_nodes
        self._num_nodes += 1
        self._depth += 1
        _bound(self._depth <= MAX_DEPTH, f"more than {MAX_DEPTH} levels", event)
        _bound(self._num_nodes <= CONFIG_NODES, TOO_MANY, event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            _bound(id(node) in self._sizes, "a YAML alias refers to itself; write the value out", event)
            self._num_nodes = before + self._sizes[id(node)]  # as many nodes as it stands for
            _bound(self._num_nodes <= CONFIG_NODES, TOO_MANY, event)
        elif isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")):
            _bound(len(node.value) <= MAX_DIGITS, f"a number of {len(node.value)} characters", event)
        self._sizes[id(node)] = self._num_nodes - before
        return node

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
    if len(text) > CONFIG_BYTES:
        raise ConfigurationError(f"{where}: more than {CONFIG_BYTES} characters, which no configuration has")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        verdict = "" if isinstance(error, _BoundError) else "not valid YAML: "
        raise ConfigurationError(f"{where}{position}: {verdict}{error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            if len(content := file.read(CONFIG_BYTES + 1)) > CONFIG_BYTES:
                raise ConfigurationError(f"{path}: larger than {CONFIG_BYTES} bytes, which no configuration is")
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; give the path of a YAML file") from None
    values = _parse(text, str(path))
    if values is None:
        raise ConfigurationError(f"{path}: empty; flows/configs/base.yaml shows every key")
    if not isinstance(values, dict):
        sections = ", ".join(PipelineConfig.model_fields)
        raise ConfigurationError(f"{path}: {_quoted(values)} is not a section with the keys {sections}")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    """Apply one `a.b=c`. The text is YAML, except for a key that holds only text: a template is full of braces."""
    dotted, equals, text = override.partition("=")
    where = f"--set {override[:MAX_SHOWN]}{'…' if len(override) > MAX_SHOWN else ''}"
    keys = dotted.strip().split(".")
    if not equals or not all(keys) or len(keys) > MAX_DEPTH:
        raise ConfigurationError(f"{where}: write it as section.key=value")
    is_text = _is_text(keys)
    try:
        value = _parse(text, where)
    except ConfigurationError:
        if not is_text:
            raise
        value = text
    if is_text and not isinstance(value, str | None):
        value = text
    _put(values, keys, value, where)


def _put(values: dict[str, Any], keys: Sequence[str], value: Any, where: str) -> None:
    """Set one key; create the sections above it."""
    section = values
    for i, name in enumerate(keys[:-1]):
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            path = ".".join(keys[: i + 1])
            raise ConfigurationError(f"{where}: {path} holds {_quoted(section)}, which is not a section")
    section[keys[-1]] = value


def _tuples(value: Any) -> Any:
    """Return the value with tuples for lists: strict validation takes no list for a tuple."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _schema(model: type[BaseModel] = PipelineConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key's dotted path with its type, sections included."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        yield path, field.annotation
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _schema(kind, f"{path}.")


def _is_text(keys: Sequence[str]) -> bool:
    kinds = dict(_schema())
    return kinds.get(".".join(keys)) in (str, str | None) or kinds.get(".".join(keys[:-1])) == dict[str, str] | None


def _message(error: ValidationError, values: dict[str, Any]) -> str:
    """Return all errors in one line, unknown keys first: they often explain the others."""
    messages: dict[str, str] = {}
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    for detail in details[:MAX_ERRORS]:
        path = _path(detail, values)
        if path in messages:  # a union has an error for each of its members
            messages[path] += f" or {_allowed(path, detail)}"
        else:
            is_secret = detail["type"] == "extra_forbidden" and SECRET_KEY.search(path)
            has_value = not is_secret and detail["type"] not in ("missing", "value_error")
            refused = f"{_quoted(detail['input'])} is not allowed: " if has_value else ""
            messages[path] = refused + _allowed(path, detail)
    more = f"; and {len(details) - MAX_ERRORS} more" if len(details) > MAX_ERRORS else ""
    return "; ".join(f"{path}: {message}" if path else message for path, message in messages.items()) + more


def _path(detail: Any, values: Any) -> str:
    """Return an error's dotted path without what pydantic adds to it: the members of a union, "[key]"."""
    *sections, last = detail["loc"] if detail["type"] == "missing" else (*detail["loc"], "")
    path = ""
    for part in sections:
        if (isinstance(values, dict) and part in values) or (isinstance(values, tuple) and isinstance(part, int)):
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
            values = values[part]
    return f"{path}.{last}".strip(".")


def _allowed(path: str, detail: Any) -> str:
    """Return pydantic's message; for an unknown key also the nearest key of the schema with its section's keys."""
    message = str(detail["msg"]).removeprefix("Value error, ").replace("a valid tuple", "a valid list")
    if detail["type"] == "string_type" and isinstance(detail["input"], int | float):
        return f"{message}, in quotes"
    if detail["type"] != "extra_forbidden":
        return message
    paths = [known for known, _ in _schema()]
    hint = "".join(f"did you mean {near}? " for near in get_close_matches(path, paths, n=1))
    section = path.rpartition(".")[0]
    siblings = (other.rpartition(".")[2] for other in paths if other.rpartition(".")[0] == section)
    return f"{message}; {hint}known here: {', '.join(siblings)}"


def _quoted(value: Any) -> str:
    """Return the value as YAML spells null and booleans, otherwise as Python does, cut at MAX_SHOWN characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = USER.sub("://…@", repr(list(value) if isinstance(value, tuple) else value))
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
