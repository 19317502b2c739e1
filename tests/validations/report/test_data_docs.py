"""Data Docs in a real browser, of results that Great Expectations made."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.validations.report.test_page import HOSTILE
from validations.expectations import _quiet_context
from validations.report.data_docs import write_data_docs
from validations.verdict import Suite

if TYPE_CHECKING:
    from tests.validations.conftest import OpenPage

REASONS = ["eos", *HOSTILE, "$x", "\x00\u202eevil"]


@pytest.fixture(scope="module")
def results() -> dict[Suite, dict[str, Any]]:
    """One suite that passes, one in which two of four expectations fail, with hostile values."""
    import great_expectations as gx
    import great_expectations.expectations as gxe
    import pandas as pd

    context = _quiet_context()
    frame = pd.DataFrame({"id": [str(i) for i in range(len(REASONS))], "finish_reason": REASONS, "alpha": 0.5})
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("rows").get_batch(batch_parameters={"dataframe": frame})
    id_present = gxe.ExpectColumnValuesToNotBeNull(column="id")
    suites: dict[Suite, Any] = {
        "prompts": gx.ExpectationSuite("prompts", expectations=[id_present]),
        "completions": gx.ExpectationSuite(
            "completions",
            expectations=[
                gxe.ExpectColumnValuesToNotBeNull(column="id"),
                gxe.ExpectColumnValuesToBeInSet(column="finish_reason", value_set=["eos", *HOSTILE[:1]]),
                gxe.ExpectColumnValuesToBeBetween(column="alpha", min_value=0.6, max_value=1),
                gxe.ExpectColumnDistinctValuesToBeInSet(column="finish_reason", value_set=["eos"]),
            ],
        ),
    }
    return {
        name: json.loads(json.dumps(batch.validate(suite, result_format="SUMMARY").to_json_dict()))
        for name, suite in suites.items()
    }


@pytest.fixture(scope="module")
def docs(results: dict[Suite, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "data_docs"
    write_data_docs(folder, results)
    return folder


def test_index_leads_to_the_pages_and_back(open_page: OpenPage, docs: Path) -> None:
    assert sorted(path.name for path in docs.iterdir()) == ["completions.html", "index.html", "prompts.html"]
    with open_page() as seen:
        page = seen.open(docs / "index.html")
        rows = page.locator("tbody tr").all_inner_texts()
        assert [row.split("\t") for row in rows] == [
            ["prompts", "✓ passed", "0 of 1"],
            ["completions", "✕ failed", "3 of 4"],
        ]
        page.get_by_role("link", name="completions").click()
        assert page.get_by_text("values must never be null").is_visible()
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


def test_hostile_values_stay_text(open_page: OpenPage, docs: Path) -> None:
    with open_page() as seen:
        page = seen.open(docs / "completions.html")
        page.wait_for_timeout(100)
        seen.check_quiet(docs / "completions.html")
        assert page.evaluate("window.hacked") is None
        assert page.locator("script, img, svg, iframe, link:not([rel=icon]), [onload], [onerror], [style]").count() == 0
        for hostile in HOSTILE[1:]:
            cell = page.locator("td td").filter(has_text=hostile).first
            assert cell.inner_text() == hostile
            assert cell.is_visible()
        assert page.locator(".badge", has_text=HOSTILE[0]).first.inner_text() == HOSTILE[0]
        assert page.locator("td td", has_text=r"\x00\u202eevil").first.is_visible()


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
        assert {'"✓"', '"✕"'} == set(marks)


def test_an_exception_is_shown(results: dict[Suite, dict[str, Any]], tmp_path: Path) -> None:
    broken = copy.deepcopy(results["prompts"])
    message = "<script>no column</script>"
    broken["results"][0] |= {
        "success": False,
        "result": {},
        "exception_info": {"raised_exception": True, "exception_message": message, "exception_traceback": "line 1"},
    }
    write_data_docs(tmp_path, {"prompts": broken})
    page = (tmp_path / "prompts.html").read_text()
    assert "&lt;script&gt;no column" in page
    assert "<script" not in page


def test_result_is_left_as_it_was(results: dict[Suite, dict[str, Any]], tmp_path: Path) -> None:
    before = copy.deepcopy(results)
    write_data_docs(tmp_path / "a", results)
    assert results == before
