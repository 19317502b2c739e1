"""Data Docs of results on a hostile dataset, as text and in a real browser."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from tests.validations.report.test_page import HOSTILE
from validations.expectations import ExpectationRunner
from validations.limits import Limits
from validations.measure.metadata import DatasetMetadata
from validations.report.data_docs import write_data_docs
from validations.suites import checks
from validations.verdict import SUITES, Suite

if TYPE_CHECKING:
    from tests.validations.conftest import OpenPage

REASONS = ["eos", *HOSTILE, "$x", "\x00\u202eevil"]
NUM_ROWS = 2 * len(REASONS)
METRICS: dict[str, float | int | None] = {"num_rows": NUM_ROWS, "empty_rate": 0.5, "length_rate": 0.5}


@pytest.fixture(scope="module")
def runner() -> ExpectationRunner:
    """A runner that judged two batches in which ids and finish reasons are hostile, and some numbers are off."""
    runner = ExpectationRunner(checks(Limits(), kl_symmetric=True))
    names = [check.name for check in checks(Limits(), kl_symmetric=True) if check.judges == "rows"]
    rows = pd.DataFrame(dict.fromkeys(names, True), index=range(len(REASONS))).assign(
        id=REASONS, sample_idx=0, finish_reason=REASONS, num_tokens=1, max_kl_error=[float("nan"), *[1e-3] * 9]
    )
    runner.judge_rows(rows)
    runner.judge_rows(rows)
    runner.judge_dataset(METRICS)
    return runner


@pytest.fixture(scope="module")
def results(runner: ExpectationRunner) -> dict[Suite, dict[str, Any]]:
    return {suite: runner.suite_result(suite) for suite in SUITES}


@pytest.fixture(scope="module")
def docs(results: dict[Suite, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "data_docs"
    write_data_docs(folder, results)
    return folder


def test_results_hold_counts_and_row_numbers_but_no_text(results: dict[Suite, dict[str, Any]]) -> None:
    """The row numbers go on from batch to batch; a number of the whole dataset may be there."""
    found = {
        each["expectation_config"]["meta"]["name"]: each for suite in results.values() for each in suite["results"]
    }
    assert not found["finish_reason"]["success"]
    assert found["finish_reason"]["result"] == {
        "element_count": NUM_ROWS,
        "missing_count": 0,
        "unexpected_count": NUM_ROWS - 2,
        "unexpected_percent": 90.0,
        "partial_unexpected_index_list": [i for i in range(NUM_ROWS) if i % 10],
    }
    assert found["max_kl_error"]["result"]["unexpected_count"] == NUM_ROWS - 2
    assert found["empty_rate"]["result"]["partial_unexpected_list"] == [0.5]
    written = json.dumps(results, ensure_ascii=False)
    assert [text for text in REASONS[1:] if text in written or json.dumps(text)[1:-1] in written] == []


def test_the_first_row_is_named_beside_them(runner: ExpectationRunner) -> None:
    checked = {
        check.name: check for check in runner.check_results({**METRICS, "kl_error_max": 1e-3}, DatasetMetadata())
    }
    assert checked["finish_reason"].value == f"{HOSTILE[0]!r} (row {HOSTILE[0]}, sample 0)"
    assert (checked["finish_reason"].num_outside, checked["max_kl_error"].value) == (NUM_ROWS - 2, 1e-3)


def test_pages_load_nothing_and_run_nothing(docs: Path) -> None:
    assert sorted(path.name for path in docs.iterdir()) == [
        "completions.html", "index.html", "prompts.html", "tokens.html",
    ]  # fmt: skip
    for path in docs.iterdir():
        page = path.read_text(encoding="utf-8")
        assert "Content-Security-Policy" in page
        assert re.findall(r"<script|<img|<svg|<iframe|https?:|\son[a-z]+=|\sstyle=|javascript:|@import", page) == []
        assert re.findall(r"<link[^>]*>", page) == ['<link rel="icon" href="data:,">']
        links = set(re.findall(r'href="([^"#]+)"', page)) - {"data:,"}
        assert links <= {other.name for other in docs.iterdir()}
        assert [text for text in REASONS[1:] if text in page] == []


def test_failures_are_counted(docs: Path) -> None:
    completions, index = ((docs / name).read_text() for name in ("completions.html", "index.html"))
    assert f"{NUM_ROWS - 2} unexpected values found. 90% of {NUM_ROWS} total rows." in completions
    assert re.search(r"Unexpected Value\s.*?>0\.5<", completions, re.DOTALL)
    assert re.findall(r"<td>(\d+ of \d+)</td>", index) == ["0 of 6", "3 of 7", "1 of 15"]


def test_index_leads_to_the_pages_and_back(open_page: OpenPage, docs: Path) -> None:
    with open_page() as seen:
        page = seen.open(docs / "index.html")
        rows = page.locator("tbody tr").all_inner_texts()
        assert [row.split("\t") for row in rows] == [
            ["prompts", "✓ passed", "0 of 6"],
            ["completions", "✕ failed", "3 of 7"],
            ["tokens", "✕ failed", "1 of 15"],
        ]
        page.get_by_role("link", name="completions").click()
        assert page.get_by_text("values must belong to this set").first.is_visible()
        page.get_by_role("link", name="Home").click()
        assert page.title() == "Data Docs"
        seen.check_quiet(*(docs / name for name in ("index.html", "completions.html", "index.html")))


def test_links_lead_somewhere(open_page: OpenPage, docs: Path) -> None:
    for path in docs.iterdir():
        with open_page() as seen:
            page = seen.open(path)
            targets = page.locator("a[href]").evaluate_all("all => all.map(a => a.getAttribute('href'))")
            assert targets
            for target in targets:
                if target.startswith("#"):
                    assert page.locator(f"[id='{target[1:]}']").count() == 1
                else:
                    assert (docs / target).is_file()


def test_hostile_values_reach_no_page(open_page: OpenPage, docs: Path) -> None:
    with open_page() as seen:
        page = seen.open(docs / "completions.html")
        page.wait_for_timeout(100)
        seen.check_quiet(docs / "completions.html")
        assert page.evaluate("window.hacked") is None
        assert page.locator("script, img, svg, iframe, link:not([rel=icon]), [onload], [onerror], [style]").count() == 0
        text = page.inner_text("body")
        assert [hostile for hostile in REASONS[1:] if hostile in text] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable(open_page: OpenPage, docs: Path, scheme: Any) -> None:
    with open_page(color_scheme=scheme, viewport={"width": 360, "height": 640}) as seen:
        for name in ("index.html", "completions.html"):
            page = seen.open(docs / name)
            assert min(seen.contrast("h1, h4, h5, h6, p, a, td, td *, th, span, strong")) >= 4.5
            assert page.evaluate("document.documentElement.scrollWidth") == 360
        marks = page.locator("i[class*=fa-]").evaluate_all(
            "all => all.map(i => getComputedStyle(i, '::before').content)"
        )
        assert {'"✓"', '"✕"'} <= set(marks) <= {'"✓"', '"✕"', '"!"'}


def test_result_is_left_as_it_was(results: dict[Suite, dict[str, Any]], tmp_path: Path) -> None:
    before = copy.deepcopy(results)
    write_data_docs(tmp_path / "a", results)
    assert results == before


def test_what_great_expectations_cannot_judge_is_an_error() -> None:
    runner = ExpectationRunner([check for check in checks(Limits(), kl_symmetric=True) if check.name == "num_tokens"])
    with pytest.raises(RuntimeError, match="could not judge"):
        runner.judge_rows(pd.DataFrame({"id": ["a"], "sample_idx": [0], "num_tokens": ["many"]}))
