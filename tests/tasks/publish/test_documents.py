"""Tests of the documents beside a judged dataset."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.publish.documents import (
    DATA_DOCS,
    NUM_QUARANTINED,
    REPORT,
    REPORT_JSON,
    as_json,
    read_quarantined,
    write_report,
)
from tests.validations.made_up import MANIFEST, make_verdict
from tests.validations.tables import facts, made_rows, to_table, written
from validations.gate import Limits, Verdict, judge


def verdict_on(folder: Path, *, damaged: bool = False) -> Verdict:
    rows = made_rows(12)
    if damaged:
        for row, value in zip(rows[:3], (math.inf, math.nan, -math.inf), strict=True):
            row["kl_error"] = [value] * row["num_tokens"]
            row["max_kl_error"] = row["mean_kl_error"] = row["mean_js"] = value
            row["logprob_q"] = row["js"] = row["ess_ratio"] = [value] * row["num_tokens"]
        rows[4]["id"], rows[5]["finish_reason"] = None, None
    return judge(written(folder, to_table(rows)), Limits(), facts())


def test_a_verdict_is_json_without_nan(tmp_path: Path) -> None:
    for damaged in (False, True):
        verdict = verdict_on(tmp_path, damaged=damaged)
        document = as_json(verdict)
        assert json.loads(json.dumps(document, allow_nan=False)) == json.loads(json.dumps(document))
        assert document["passed"] is not damaged
        assert document["refusals"] == list(verdict.refusals)
        assert {check["name"] for check in document["checks"]} == {check.name for check in verdict.checks}
        assert list(document["great_expectations"]) == ["prompts", "completions", "tokens"]
        assert document["figures"]["num_rows"] == 12


def test_the_three_documents_are_written(tmp_path: Path) -> None:
    verdict = verdict_on(tmp_path, damaged=True)
    (tmp_path / "quarantine.jsonl").write_text('{"id": "r7", "reason": "a<script>b", "detail": "d"}\nnot json\n')
    write_report(tmp_path, "name <b>v1</b>", verdict, MANIFEST)
    document = json.loads((tmp_path / REPORT_JSON).read_text(), parse_constant=pytest.fail)
    assert document["refusals"] == list(verdict.refusals)
    page = (tmp_path / REPORT).read_text(encoding="utf-8")
    assert "name &lt;b&gt;v1&lt;/b&gt;" in page
    assert "name <b>v1" not in page
    assert "a<script>b" not in page
    assert (tmp_path / DATA_DOCS / "index.html").is_file()
    # Again, over the same files, for another verdict; a foreign dataset has no manifest.
    write_report(tmp_path, "second", replace(make_verdict(is_refused=False), results=verdict.results), None)
    assert json.loads((tmp_path / REPORT_JSON).read_text())["passed"] is True
    assert "second" in (tmp_path / REPORT).read_text(encoding="utf-8")


def quarantined(folder: Path, data: bytes) -> list[dict[str, Any]]:
    (folder / "quarantine.jsonl").write_bytes(data)
    return read_quarantined(folder)


def test_quarantined_rows(tmp_path: Path) -> None:
    assert read_quarantined(tmp_path) == []
    assert quarantined(tmp_path, b"") == []
    assert quarantined(tmp_path, b'{"a": 1}\n{"b": "\xc3\xa9"}') == [{"a": 1}, {"b": "é"}]
    lines = [b"", b"{", b"[1]", b'"x"', b"null", b"NaN", b"9" * 5000, b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 5000]
    assert quarantined(tmp_path, b"\n".join([*lines, b'{"ok": true}'])) == [{"ok": True}]
    assert quarantined(tmp_path, b'{"a": "\xff"}\n') == [{"a": "�"}]


def test_a_line_without_an_end_is_not_held(tmp_path: Path) -> None:
    """A sparse file of gigabytes takes a few bytes on a disk."""
    assert quarantined(tmp_path, b'{"b": 1}\n{"a": "' + b"x" * (9 << 20) + b'"}\n') == [{"b": 1}]
    with open(tmp_path / "quarantine.jsonl", "wb") as file:
        file.truncate(20 << 30)
    tracemalloc.start()
    assert read_quarantined(tmp_path) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


def test_only_the_first_are_read(tmp_path: Path) -> None:
    many = "".join(json.dumps({"row": i}) + "\n" for i in range(NUM_QUARANTINED + 9))
    assert quarantined(tmp_path, many.encode()) == [{"row": i} for i in range(NUM_QUARANTINED)]
    (tmp_path / "quarantine.jsonl").unlink()
    (tmp_path / "quarantine.jsonl").mkdir()
    assert read_quarantined(tmp_path) == []
