"""The HTML report, as text and in a real browser: complete, readable, safe against hostile datasets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.validations.made_up import (
    MANIFEST,
    QUARANTINED,
    make_aggregates,
    make_checks,
    make_empty_aggregates,
    make_sample,
    make_verdict,
)
from tests.validations.report.test_provenance import STRANGE
from tests.validations.report.test_visible import UNSEEN
from validations.measure.aggregates import WorstRow
from validations.report.page import MAX_TOKENS, render_comparison, render_report
from validations.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from tests.validations.conftest import OpenPage

SCRIPT = "<script>window.hacked=1</script>"
HOSTILE = [
    SCRIPT,
    "<img src=x onerror='window.hacked=1'>",
    '"><svg onload="window.hacked=1">',
    "</style></pre></title></textarea><script>window.hacked=1</script>",
    "{{ 7*7 }}{% raw %}",
    "' onfocus=window.hacked=1 autofocus x='",
    "<!-- ]]> &lt;b&gt;",
]
MAX_BYTES = 5_000_000


def write(folder: Path, text: str) -> Path:
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("report"), render_report("math_qa v3", make_verdict(), MANIFEST, QUARANTINED))


def test_tokens_that_the_teacher_alone_expects_are_listed() -> None:
    page = render_report("set", make_verdict(), None, [])
    row = page[page.index("log π_t − log π_θ") :].partition("</table>")[0]
    assert [text in row for text in (" 42", "17", "6.25", "0.3125")] == [True] * 4
    empty = replace(make_verdict(), aggregates=make_empty_aggregates())
    assert "where it is concentrated" not in render_report("set", empty, None, [])


def test_opens_without_a_word(open_page: OpenPage, report: Path) -> None:
    with open_page() as seen:
        page = seen.open(report)
        page.wait_for_timeout(200)
        seen.check_quiet(report)
        assert page.title() == "math_qa v3"


def test_watch_sees_what_goes_wrong(open_page: OpenPage, tmp_path: Path) -> None:
    html = "<link rel=icon href='data:,'><img src='http://example.invalid/x.png'><script>console.error('no')</script>"
    with open_page() as seen:
        seen.open(write(tmp_path, html))
        assert "no" in seen.messages
        assert "http://example.invalid/x.png" in seen.requests


@pytest.mark.parametrize("width", [1280, 360])
def test_every_plot_is_drawn(open_page: OpenPage, report: Path, width: int) -> None:
    with open_page(viewport={"width": width, "height": 800}) as seen:
        page = seen.open(report)
        plots = page.locator("svg.plot")
        assert plots.count() == 9
        for i in range(9):
            box = plots.nth(i).bounding_box()
            assert box is not None
            assert 250 < box["width"] <= width
            assert 120 < box["height"] < 600
            lines = (
                plots.nth(i)
                .locator("path, use")
                .evaluate_all(
                    "all => all.filter(e => { const b = e.getBBox(); return b.width > 20 || b.height > 20; }).length"
                )
            )
            assert lines >= 4, "axes, grid and at least one series"
            series = plots.nth(i).evaluate(
                "svg => [...svg.querySelectorAll('path')].filter(e => /--a/.test(e.getAttribute('style'))).length"
            )
            assert series >= 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(open_page: OpenPage, report: Path, scheme: Any) -> None:
    with open_page(color_scheme=scheme) as seen:
        page = seen.open(report)
        page.eval_on_selector_all("details", "all => all.forEach(details => details.open = true)")
        for selector in ("p, li, li *, dt, dd, caption, figcaption, summary, h1, h2, a", "td div, td div *, th",
                         "svg.plot text", ".t", "pre"):  # fmt: skip
            assert min(seen.contrast(selector)) >= 4.5, selector
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]


def test_mixed_tokens_are_coloured_by_alpha(open_page: OpenPage, tmp_path: Path) -> None:
    sample = make_sample(np.random.default_rng(0), num_tokens=3, mode=["mixed"] * 3, alpha=[0.0, 0.5, 1.0])
    path = write(tmp_path, render_report("x", with_samples(sample), None, []))
    with open_page() as seen:
        colours = seen.open(path).eval_on_selector_all(
            ".tokens .t", "all => all.map(e => getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number))"
        )
    theta, half, teacher = np.array(colours)
    assert theta[2] > theta[0], "blue"
    assert teacher[0] > teacher[2], "orange"
    assert half == pytest.approx((theta + teacher) / 2, abs=0.01)


def test_modes_differ_in_more_than_colour(open_page: OpenPage, report: Path) -> None:
    with open_page() as seen:
        page = seen.open(report)
        for mode, style in (("mixed", "none"), ("forced", "double"), ("fallback", "dashed")):
            token = page.locator(f".tokens .t.{mode}").first
            assert token.evaluate("e => getComputedStyle(e).borderBottomStyle") == style


@pytest.mark.parametrize(("way", "width"), [("hover", 1280), ("focus", 360)])
def test_tooltip(open_page: OpenPage, tmp_path: Path, way: str, width: int) -> None:
    sample = make_sample(
        np.random.default_rng(0), num_tokens=2, mode=["mixed", "forced"], alpha=[0.4321, 1.0], kl_error=[3.21e-9, 0.0],
        logprob_q=[-0.5123, -1.0], logprob_theta=[-0.9876, -float("inf")], logprob_teacher=[-0.4567, -1.5],
    )  # fmt: skip
    path = write(tmp_path, render_report("x", with_samples(sample), None, []))
    with open_page(viewport={"width": width, "height": 700}) as seen:
        page = seen.open(path)
        tokens = page.locator(".tokens .t")
        after = (
            "e => { const s = getComputedStyle(e, '::after'); return [s.content, s.opacity, s.visibility, s.width]; }"
        )
        assert tokens.nth(0).evaluate(after)[0] == "none"
        getattr(tokens.nth(0), way)()
        content, opacity, visibility, shown_width = tokens.nth(0).evaluate(after)
        for part in (
            "mixed",
            "0.4321",
            "3.21e-09",
            "log q*",
            "−0.5123",
            "log π_theta",
            "−0.9876",
            "log π_teacher",
            "−0.4567",
        ):
            assert part in content
        assert (opacity, visibility) == ("1", "visible")
        assert float(shown_width.removesuffix("px")) > 100
        assert tokens.nth(1).evaluate(after)[0] == "none"
        getattr(tokens.nth(1), way)()
        assert "−∞" in tokens.nth(1).evaluate(after)[0]
        assert tokens.nth(0).evaluate(after)[0] == "none"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_tab_key_reaches_tokens_and_passes_them_by(open_page: OpenPage, report: Path) -> None:
    with open_page() as seen:
        page = seen.open(report)
        page.locator(".skip").first.focus()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className").startswith("t ")
        page.locator(".skip").first.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_whitespace_is_visible(open_page: OpenPage, tmp_path: Path) -> None:
    pieces = [" ", "\n", "\t", "", ".\n\n", " a"]
    sample = make_sample(np.random.default_rng(0), num_tokens=6, pieces=pieces)
    with open_page() as seen:
        page = seen.open(write(tmp_path, render_report("x", with_samples(sample), None, [])))
        assert page.locator(".tokens .t").all_text_contents() == ["·", "⏎\n", "⇥\t", "∅", ".⏎\n⏎\n", " a"]
        boxes = [token.bounding_box() for token in page.locator(".tokens .t").all()]
    tops = [box["y"] for box in boxes if box]
    assert tops[2] > tops[0], "the line breaks where the token does"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_stays_text(open_page: OpenPage, tmp_path: Path, hostile: str) -> None:
    path = write(tmp_path, render_report(hostile, hostile_verdict(hostile), hostile_manifest(hostile), [
        {"row": 1, "reason": hostile, "detail": hostile, "id": hostile}, {"other": hostile}, {hostile: hostile},
    ]))  # fmt: skip
    with open_page() as seen:
        page = seen.open(path)
        page.eval_on_selector_all("details", "all => all.forEach(details => details.open = true)")
        for token in page.locator(".tokens .t").all()[:3]:
            token.focus()
        page.wait_for_timeout(100)
        seen.check_quiet(path)
        assert page.evaluate("window.hacked") is None
        assert page.locator("script, img, iframe, object, [onload], [onerror], [onfocus]").count() == 0
        assert page.title() == hostile
        for selector in ("h1", "#verdict li", "#checks td", "#figures dt", "#samples pre", "#samples summary code",
                      ".tokens", "#rows td", "#provenance dd", "#provenance pre"):  # fmt: skip
            found = page.locator(selector).filter(
                has_text=hostile if selector != "#provenance pre" else hostile.split('"')[0]
            )
            assert found.count() >= 1, selector
            assert found.first.is_visible(), selector


def test_what_cannot_be_seen_is_written_out() -> None:
    text = "".join(text for text, _ in UNSEEN)
    page = render_report("x", hostile_verdict(text), hostile_manifest(text), [{"reason": text, "detail": text}])
    page.encode()  # no surrogate
    assert not {"\x00", "\u202e", "\u202c", "\x1b", "\u200b"} & set(page)


@pytest.mark.parametrize("seed", [0, 1])
def test_page_is_small_whatever_comes(open_page: OpenPage, tmp_path: Path, seed: int) -> None:
    huge = ("'" if seed else "\U000e0001") * 1_000_000  # the first takes 5 bytes a character, the second 10
    rng = np.random.default_rng(seed)
    texts = dict.fromkeys(
        ("id", "why", "theta_prompt", "teacher_prompt", "completion", "reference", "finish_reason"), huge
    )
    samples = [make_sample(rng, i, 2000, pieces=[huge[:5000]] * 2000, **texts) for i in range(40)]
    worst = [WorstRow(huge, 0, huge, 1.0, 1, huge, huge)] * 500
    large = huge[:10_000]  # all of a verdict's lines stand in memory
    checks = [CheckResult(large, "tokens", "refuse", large, large, large, "failed", large, 3, large)] * 300
    aggregates = replace(make_aggregates(num_samples=0), samples=samples, worst=worst)
    verdict = Verdict(tuple(checks), {f"{i}{large}": 1.0 for i in range(300)}, aggregates)
    manifest = hostile_manifest(huge) | {
        "config": {"a": huge},
        "engine": {f"{i}{huge}": huge for i in range(40)},
        "libraries": {f"{i}{huge}": huge for i in range(40)},
        "quarantine": {f"{i}{huge}": i for i in range(60)},
        "slowest_shards": [dict.fromkeys(("shard", "num_rows", "num_tokens", "seconds", "num_attempts"), huge)] * 200,
    }
    rows = [{"id": huge, "sample_idx": 0, "reason": huge, "detail": huge}] * 100_000
    page = render_report(huge, verdict, manifest, rows)
    assert len(page.encode()) <= MAX_BYTES
    path = write(tmp_path, page)
    with open_page(viewport={"width": 360, "height": 700}) as seen:
        opened = seen.open(path)
        seen.check_quiet(path)
        assert opened.evaluate("document.documentElement.scrollWidth") == 360
        assert MAX_TOKENS - 20 <= opened.locator(".tokens .t").count() <= MAX_TOKENS
        assert "1,584 more" in opened.locator("#after-1").inner_text(), "2,000 tokens less the 416 of one of 12 rows"


@pytest.mark.parametrize("manifest", STRANGE)
def test_strange_manifests(manifest: Mapping[str, Any] | None) -> None:
    rows: list[Any] = [{}, {"reason": None}, {"a": {"b": [1]}}, 5, None, {"row": {"x": 1}, "reason": 3, "detail": [1]}]
    page = render_report("x", make_verdict(), manifest, rows)
    assert "limit 1e-06" in page
    assert page.count("<svg") == 8, "no speed"


def test_verdicts() -> None:
    refused, warned, passed = (
        render_report("x", make_verdict(0, is_refused, is_warned), None, [])
        for is_refused, is_warned in ((True, True), (False, True), (False, False))
    )
    assert "Refused: 2 of 5 checks refuse it, 1 warning; 1 could not be judged" in refused
    assert "Passed with 1 warning, of 5 checks; 1 could not be judged" in warned
    assert "Passed all 5 checks; 1 could not be judged" in passed
    for line in (*make_verdict().refusals, *make_verdict().warnings):
        assert line.replace("'", "&#39;") in refused
    assert "the dataset names no question column" in passed


def test_plot_draws_the_limit_that_was_judged() -> None:
    checks = [replace(check, limit="≤ 0.002") for check in make_checks() if check.name == "max_kl_error"]
    assert "limit 0.002<" in render_report("x", make_verdict(checks=tuple(checks)), None, [])
    assert "limit 1e-06<" in render_report("x", make_verdict(checks=()), None, [])
    odd = tuple(replace(check, limit="≤ none") for check in checks)
    assert "limit 1e-06<" in render_report("x", make_verdict(checks=odd), None, [])


def test_quarantine_says_how_much_it_leaves_out() -> None:
    assert "2 of 4 shown" in render_report("x", make_verdict(), MANIFEST, QUARANTINED)
    assert "100 of 5,000 shown" in render_report("x", make_verdict(), None, QUARANTINED * 2500)


def test_empty_dataset(open_page: OpenPage, tmp_path: Path) -> None:
    path = write(tmp_path, render_report("x", Verdict((), {}, make_empty_aggregates()), None, []))
    with open_page() as seen:
        page = seen.open(path)
        seen.check_quiet(path)
        assert page.locator("svg.plot text", has_text="No mixed token in this dataset").first.is_visible()
        assert page.get_by_text("No row is shown.").is_visible()
        assert page.get_by_text("No manifest lies beside this dataset").is_visible()


def test_print(open_page: OpenPage, report: Path) -> None:
    with open_page(viewport={"width": 700, "height": 990}, color_scheme="dark") as seen:  # A4 at 96 dpi, less margins
        page = seen.open(report)
        page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.scrollWidth") <= 700
        assert min(seen.contrast("svg.plot text")) >= 4.5
        for box in (plot.bounding_box() for plot in page.locator("svg.plot").all()):
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 700
        assert page.pdf().startswith(b"%PDF")


def test_phone_does_not_scroll_sideways(open_page: OpenPage, report: Path) -> None:
    with open_page(viewport={"width": 360, "height": 640}) as seen:
        page = seen.open(report)
        page.eval_on_selector_all("details", "all => all.forEach(details => details.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_comparison(open_page: OpenPage, tmp_path: Path) -> None:
    verdicts = (make_verdict(), make_verdict(3, is_refused=False))
    text = render_comparison((SCRIPT, "v4"), verdicts, (MANIFEST, None))
    assert len(text.encode()) <= MAX_BYTES
    path = write(tmp_path, text)
    with open_page(viewport={"width": 1280, "height": 800}) as seen:
        page = seen.open(path)
        seen.check_quiet(path)
        assert page.evaluate("window.hacked") is None
        assert SCRIPT in page.locator(".legend").inner_text()
        both = page.locator("svg.plot").evaluate_all(
            "all => all.map(svg => ['--a', '--b'].map(v => [...svg.querySelectorAll('path')]"
            ".filter(e => e.getAttribute('style')?.includes(v) && e.getBBox().height > 3).length))"
        )
        assert len(both) == 9
        assert all(a and b for a, b in both[:-1])
        assert both[-1][0], "B has no speed"
        row = page.locator("#figures tr", has_text="fallback_rate").locator("td").all_inner_texts()
        assert row == ["fallback_rate", "0.93", "0.04", "-0.89"]
        row = page.locator("#checks tr", has_text="max_kl_error").locator("td").all_inner_texts()
        assert "failed, refuses" in row[1]
        assert "passed" in row[2]
        page.set_viewport_size({"width": 360, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert min(seen.contrast("td div, li *, svg.plot text, .outcome")) >= 4.5


def test_comparison_of_different_checks() -> None:
    fewer = replace(make_verdict(1), checks=make_checks()[:2], metrics={"num_rows": 3, "other": 1})
    page = render_comparison(("a", "b"), (make_verdict(), fewer), (None, {}))
    assert "other" in page
    assert "fallback_rate" in page


def with_samples(*samples: Any) -> Verdict:
    return replace(make_verdict(), aggregates=replace(make_aggregates(num_samples=0), samples=list(samples)))


def hostile_verdict(text: str) -> Verdict:
    pieces = [text[i : i + 20] for i in range(0, len(text), 20)][:10]
    sample = make_sample(np.random.default_rng(0), num_tokens=10, pieces=pieces, id=text, theta_prompt=text,
                         teacher_prompt=text, completion=text, reference=text, finish_reason=text, why=text,
                         mode=[text, *["mixed"] * 9], num_left_out=3)  # fmt: skip
    verdict = with_samples(sample)
    worst = [WorstRow(text, 0, text, 1.0, 1, text, text)]
    check = CheckResult(text, "prompts", "refuse", text, text, text, "failed", text, 2, text)
    positions = replace(verdict.aggregates, worst=worst, num_tokens={text: verdict.aggregates.num_tokens["eos"]})
    return replace(verdict, aggregates=positions, checks=(check,), metrics={text: 1.0, "num_rows": 4})


def hostile_manifest(text: str) -> dict[str, Any]:
    return MANIFEST | {
        "created": text, "run_id": text, "config": {"models": {"theta": {"model": text}}, text: text},
        "libraries": {text: text},
        "quarantine": {text: 3}, "slowest_shards": [{"shard": text, "num_rows": text}], "engine": {text: text},
    }  # fmt: skip
