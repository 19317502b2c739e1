"""SECURITY.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from sampling.bounds import CONFIG_BYTES, CONFIG_NODES, Bounds
from sampling.permissions import CODE, OUTPUT, SERVERS

TEXT = (Path(__file__).parents[1] / "SECURITY.md").read_text(encoding="utf-8")


def test_it_shows_the_bounds_that_hold() -> None:
    table = TEXT.partition("| bound | default | of |\n|---|---|---|\n")[2].splitlines()
    keys = [
        f"| `bounds.{name}` | {field.default:,} | {field.description} |" for name, field in Bounds.model_fields.items()
    ]
    assert table == [
        *keys,
        f"| a configuration's size | {CONFIG_BYTES:,} | Bytes of YAML. |",
        f"| a configuration's nodes | {CONFIG_NODES:,} | Keys and values, each alias counted as what it stands for. |",
    ]


def test_it_names_the_variables_that_decide() -> None:
    for name in (CODE, OUTPUT, SERVERS):
        assert f"| `{name}` |" in TEXT
