"""The documents beside a judged dataset: quality report, Great Expectations' Data Docs, excerpt of the quarantine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.publish.staging import QUARANTINE
from tasks.store.durable import write_bytes, write_json

if TYPE_CHECKING:
    from validations.verdict import Verdict

REPORT, REPORT_JSON, DATA_DOCS = "report.html", "report.json", "data_docs"
NUM_QUARANTINED = 50  # lines of quarantine.jsonl that the report shows
QUARANTINED_BYTES = 8 << 20  # of it that are read; a run writes some hundred a line


def write_report(folder: Path, title: str, verdict: Verdict, manifest: Mapping[str, Any] | None) -> None:
    """Write report.json, report.html and Great Expectations' Data Docs into a dataset's folder, durably."""
    from validations.report.data_docs import write_data_docs  # each imports Great Expectations or matplotlib
    from validations.report.page import render_report

    write_json(folder / REPORT_JSON, as_json(verdict))
    page = render_report(title, verdict, manifest, read_quarantined(folder))
    write_bytes(folder / REPORT, page.encode())
    write_data_docs(folder / DATA_DOCS, verdict.results)


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as in report.json; NaN and infinities, which a refused dataset may have, become strings."""
    document = {
        "passed": verdict.passed,
        "refusals": list(verdict.refusals),
        "warnings": list(verdict.warnings),
        "figures": verdict.metrics,
        "checks": [asdict(check) for check in verdict.checks],
        "great_expectations": verdict.results,
    }
    strict: dict[str, Any] = json.loads(json.dumps(document), parse_constant=str)
    return strict


def read_quarantined(folder: Path) -> list[dict[str, Any]]:
    """Return the first rows of a dataset's quarantine, without lines that are no JSON object."""
    try:
        with open(folder / QUARANTINE, "rb") as file:
            lines = file.read(QUARANTINED_BYTES).split(b"\n")[:NUM_QUARANTINED]
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line.decode(errors="replace"))
        except (ValueError, RecursionError):  # RecursionError: thousands of brackets
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
