"""What the configuration's schema allows at each key, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tasks.config import PipelineConfig


@dataclass(frozen=True)
class Node:
    """One key of the schema: the JSON schemas that its value may follow."""

    options: tuple[dict[str, Any], ...]


@cache
def _json_schema() -> dict[str, Any]:
    return PipelineConfig.model_json_schema()


def root() -> Node:
    """The whole configuration."""
    return _node(_json_schema())


def _node(schema: dict[str, Any]) -> Node:
    options = schema.get("anyOf", [schema])
    return Node(tuple(_json_schema()["$defs"][_name(option)] if "$ref" in option else option for option in options))


def _name(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def find(loc: Sequence[str | int]) -> tuple[str, Node | None]:
    """The dotted path of a pydantic error with its key's node; None for a key the schema does not know.

    Pydantic puts the names of a union's members into a location too; they are no keys, so they are left out.
    """
    path, node = "", root()
    for i, part in enumerate(loc):
        child = _child(node, part)
        if child is None:
            is_union = len([option for option in node.options if option.get("type") != "null"]) > 1
            if is_union and i > 0:
                continue
            return ".".join(filter(None, [path, str(part)])), None
        node = child
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path, node


def _child(node: Node, part: str | int) -> Node | None:
    for option in node.options:
        if part in option.get("properties", ()):
            return _node(option["properties"][part])
        if isinstance(part, int) and "items" in option:
            return _node(option["items"])
        if isinstance(part, str) and isinstance(option.get("additionalProperties"), dict):
            return _node(option["additionalProperties"])
    return None


def known_keys(node: Node) -> list[str]:
    """The keys of a section."""
    return [key for option in node.options for key in option.get("properties", ())]


def describe(node: Node) -> str:
    """What may be given, e.g. "a number > 0 and ≤ 1"."""
    return " or ".join(_describe(option) for option in node.options)


def _describe(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    match schema.get("type"):
        case "integer" | "number" as kind:
            signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
            limits = [f"{sign} {_number(schema[key])}" for key, sign in signs.items() if key in schema]
            return " ".join(["a whole number" if kind == "integer" else "a number", " and ".join(limits)]).strip()
        case "boolean":
            return "true or false"
        case "array":
            return f"a list of {describe(_node(schema['items']))}"
        case "object" if "properties" in schema:
            return "a section with the keys " + ", ".join(schema["properties"])
        case "object":
            return f"a mapping to {describe(_node(schema['additionalProperties']))}"
        case "string":
            return "text" + (f" that matches {schema['pattern']}" if "pattern" in schema else "") + _length(schema)
    return str(schema["type"])


def _length(schema: dict[str, Any]) -> str:
    least, most = schema.get("minLength"), schema.get("maxLength")
    limits = [f"≥ {least}"] * (least is not None) + [f"≤ {most}"] * (most is not None)
    return f" of {' and '.join(limits)} characters" if limits else ""


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
