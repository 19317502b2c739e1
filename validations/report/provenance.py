"""Provenance of a dataset, read from a manifest that may be malformed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

MAX_SPEEDS = 1000
MAX_ENTRIES = 20  # of each list of a manifest


class Provenance:
    """Reader of a manifest whose keys and values are checked one by one."""

    def __init__(self, manifest: Mapping[str, Any] | None) -> None:
        self.manifest = mapping(manifest)

    def speeds(self) -> list[tuple[float, float]]:
        """Return (engine seconds at the interval's end, tokens/s), ascending."""
        points = []
        for point in _list(self.manifest.get("speed")):
            end, rate = (number(value) for value in [*_list(point), None, None][:2])
            if end is not None and rate is not None and 0 < end < 1e12 and 0 <= rate < 1e12:
                points.append((end, rate))
        return sorted(points)[:: math.ceil(len(points) / MAX_SPEEDS) or 1]

    def slowest(self) -> list[list[Any]]:
        """Return shard, rows, tokens, seconds and attempts of the slowest shards."""
        columns = ("shard", "num_rows", "num_tokens", "seconds", "num_attempts")
        shards = [mapping(shard) for shard in _list(self.manifest.get("slowest_shards"))[:MAX_ENTRIES]]
        return [[plain(shard.get(column)) for column in columns] for shard in shards if shard]

    def reasons(self) -> list[list[Any]]:
        """Return each reason with its number of quarantined rows."""
        return [
            [str(name), plain(num)]
            for name, num in list(mapping(self.manifest.get("quarantine")).items())[:MAX_ENTRIES]
        ]

    def pairs(self) -> Iterator[tuple[str, Any]]:
        """Yield (name, value) of what the dataset was made with."""
        manifest, config = self.manifest, mapping(self.manifest.get("config"))
        for key in ("name", "version", "created", "run_id", "num_rows", "num_attempts", "num_damaged_parts"):
            if manifest.get(key) is not None:
                yield key, plain(manifest[key])
        for side in ("theta", "teacher"):
            model = mapping(mapping(config.get("models")).get(side)).get("model")
            if model is not None:
                yield f"model: {side}", plain(model)
        for group in ("source", "engine", "libraries"):
            for key, value in list(mapping(manifest.get(group)).items())[:MAX_ENTRIES]:
                yield f"{group}: {key}", plain(value)

    def config(self) -> str:
        """Return the configuration as indented JSON."""
        return as_json(self.manifest["config"], indent=1) if self.manifest.get("config") else ""


def plain(value: Any) -> Any:
    """Return a text or a finite number as it is, else the value's JSON."""
    if isinstance(value, str | bool | None):
        return value
    if isinstance(value, int | float):
        return value if number(value) is not None else "—"
    return as_json(value)


def as_json(value: Any, indent: int | None = None) -> str:
    """Return a value's JSON, or a note where it has none."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return "(not readable)"


def number(value: Any) -> float | None:
    """Return a finite number, else None; JSON may hold integers beyond the range of a float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e300 < value < 1e300:
        return None
    return float(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
