"""A dataset's quality on the pages of Prefect: its checks, its figures, a link to its report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact


def show_quality(title: str, report: Mapping[str, Any], page: Path | None) -> None:
    """Make the artifacts of the current run; `report` is what `tasks.documents.as_json` gives of a verdict."""
    key = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "dataset"
    create_markdown_artifact(_markdown(title, report), key=f"{key}-verdict", description=f"Verdict on {title}")
    create_table_artifact(
        [{"figure": name, "value": value} for name, value in report["figures"].items()],
        key=f"{key}-figures",
        description=f"Figures of {title}",
    )
    create_table_artifact(
        [
            {name: _cell(check[name]) for name in ("suite", "name", "outcome", "limit", "value", "meaning", "why")}
            for check in report["checks"]
        ],
        key=f"{key}-checks",
        description=f"Checks of {title}",
    )
    if page is not None:
        create_link_artifact(page.resolve().as_uri(), key=f"{key}-report", link_text="report.html")


def _markdown(title: str, report: Mapping[str, Any]) -> str:
    lines = [f"# {_escaped(title)}: {'passed' if report['passed'] else 'refused'}"]
    for heading, found in (("Refused for", report["refusals"]), ("Warnings", report["warnings"])):
        if found:
            lines += [f"## {heading}", *(f"- {_escaped(line)}" for line in found)]
    return "\n\n".join(lines)


def _escaped(text: str) -> str:
    """Text that Markdown does not take for its own; a value in it may come from the dataset."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&-])", r"\\\1", " ".join(text.split()))


def _cell(value: Any) -> str | int | float | bool:
    return "" if value is None else value
