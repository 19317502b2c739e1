"""The pages of Great Expectations on a dataset, made to stand without a network."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validations.report.visible import visible
from validations.verdict import Suite

if TYPE_CHECKING:
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult

MAX_VALUE_CHARACTERS = 300
MARKED = re.compile("ZZdatasetZZ([0-9]+)ZZ")
# Keys of an expectation's arguments that name what it judges: the renderers look columns up by them.
STRUCTURAL = {"column", "column_A", "column_B", "column_list", "column_set", "batch_id"}
KEPT_TAGS = {
    "a", "b", "br", "code", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "li", "nav", "ol", "p", "pre",
    "small", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
KEPT_ATTRIBUTES = {"id", "class", "hidden", "colspan", "rowspan"}
DROPPED_WITH_CONTENT = {"script", "style", "title", "footer", "iframe", "object", "svg", "template", "noscript"}
VOID_TAGS = {"br", "hr"}
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>{body}</body>
</html>
"""
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2024; --quiet: #59616b; --line: #d5dae0; --panel: #f0f3f6;
  --link: #005f96; --good: #14632f; --bad: #a3161b; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e4e7eb; --quiet: #a3abb5; --line: #3a4149;
  --panel: #23282d; --link: #6fc0ee; --good: #7ed69a; --bad: #ff9a97; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
a[href] { color: var(--link); }
h1, h4 { font-size: 1.4rem; margin: .5rem 0; } h5 { font-size: 1.1rem; margin: 0; }
h6, .h6 { font-size: 1rem; margin: 0; font-weight: 700; }
ol, ul { padding-left: 1.25rem; }
.breadcrumb, .nav-pills { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
.ge-section { margin: 1.5rem 0; }
.alert { background: var(--panel); border-left: .3rem solid var(--line); padding: .5rem .75rem; border-radius: .3rem; }
table { width: 100%; border-collapse: collapse; margin: .5rem 0; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .5rem; border-bottom: 1px solid var(--line); }
td table { width: auto; } td td, td th { border: 1px solid var(--line); }
.badge { background: var(--panel); border: 1px solid var(--line); border-radius: .25rem; padding: 0 .3em; }
pre { white-space: pre-wrap; background: var(--panel); padding: .5rem; }
.text-success { color: var(--good); } .text-danger, .text-warning { color: var(--bad); }
i[class*="fa-"] { font-style: normal; font-weight: 700; }
.fa-check-circle::before { content: "✓"; } .fa-times::before { content: "✕"; }
i.text-warning::before { content: "!"; }
@media print { tr, .alert { break-inside: avoid; } }
"""


def write_data_docs(folder: Path, results: Mapping[Suite, dict[str, Any]]) -> None:
    """Writes `index.html` and a page for each suite into `folder`, which is made where it is missing.

    `results` holds, by suite, the JSON of an ExpectationSuiteValidationResult. Great Expectations writes
    unexpected values into its pages as they are, so its renderers see a mark in place of each, and the page gets the
    escaped text. Of its HTML only the body's text and tables are kept: everything else is loaded from a CDN, or needs
    what is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for suite, result in results.items():
        _write(folder / f"{suite}.html", f"Data Docs: {suite}", _body(suite, result))
    _write(folder / "index.html", "Data Docs", _index(results))


def _body(suite: str, result: dict[str, Any]) -> str:
    """Great Expectations' own page of a result, less what needs a network."""
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    marks = _Marks()
    document = ValidationResultsPageRenderer(run_info_at_end=True).render(_loaded(suite, marks.result(result)))
    # Under its own name the page gets a filter and a dialogue, both of which need scripts.
    document.renderer_type = "ValidationResults"
    kept = _Kept(marks.texts)
    kept.feed(DefaultJinjaPageView().render(document))
    kept.close()
    return "".join(kept.parts)


def _loaded(suite: str, result: dict[str, Any]) -> ExpectationSuiteValidationResult:
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResultSchema

    return ExpectationSuiteValidationResultSchema().load({"suite_name": suite, "meta": {}, **result})


class _Marks:
    """Texts of a dataset, each with the mark that stands for it while Great Expectations renders."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._marks: dict[str, str] = {}

    def result(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result with a mark for every text that may come from a dataset."""
        return result | {"results": [self._expectation(each) for each in result.get("results", [])]}

    def _expectation(self, each: dict[str, Any]) -> dict[str, Any]:
        config = each["expectation_config"]
        kwargs = {key: v if key in STRUCTURAL else self._marked(v) for key, v in config.get("kwargs", {}).items()}
        changed = {name: self._marked(each[name]) for name in ("result", "exception_info") if name in each}
        return each | changed | {"expectation_config": config | {"kwargs": kwargs}}

    def _marked(self, value: Any) -> Any:
        if isinstance(value, str):
            if value not in self._marks:
                self._marks[value] = f"ZZdatasetZZ{len(self.texts)}ZZ"
                self.texts.append(visible(value, MAX_VALUE_CHARACTERS))
            return self._marks[value]
        if isinstance(value, list):
            return [self._marked(item) for item in value]
        return {key: self._marked(item) for key, item in value.items()} if isinstance(value, dict) else value


class _Kept(HTMLParser):
    """What is kept of a page: the body's text and tables, with the dataset's texts in place of their marks."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.texts = texts
        self.parts: list[str] = []
        self._in_body = False
        self._dropped: list[str] = []  # open elements that are dropped with their content

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "body":
            self._in_body = True
        elif tag in DROPPED_WITH_CONTENT:
            self._dropped.append(tag)
        elif self._is_kept(tag):
            kept = "".join(
                f' {name}="{html.escape(value or "")}"' for name, value in attributes if name in KEPT_ATTRIBUTES
            )
            self.parts.append(f"<{tag}{kept}{_link(dict(attributes)) if tag == 'a' else ''}>")

    def handle_endtag(self, tag: str) -> None:
        if tag == "body":
            self._in_body = False
        elif self._dropped and tag == self._dropped[-1]:
            self._dropped.pop()
        elif self._is_kept(tag) and tag not in VOID_TAGS:
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if self._in_body and not self._dropped:
            self.parts.append(html.escape(MARKED.sub(lambda mark: self.texts[int(mark[1])], data)))

    def _is_kept(self, tag: str) -> bool:
        return self._in_body and not self._dropped and tag in KEPT_TAGS


def _link(attributes: dict[str, str | None]) -> str:
    """Where a link leads, if that is in this folder: a place of the same page, or the index."""
    href = attributes.get("href") or ""
    if href.endswith("index.html") and "://" not in href:
        return ' href="index.html"'
    return f' href="{html.escape(href)}"' if href.startswith("#") else ""


def _index(results: Mapping[Suite, dict[str, Any]]) -> str:
    rows = []
    for suite, result in results.items():
        expectations = result.get("results", [])
        num_failed = sum(not each["success"] for each in expectations)
        tone, mark = ("text-danger", "✕ failed") if num_failed else ("text-success", "✓ passed")
        rows.append(
            f'<tr><td><a href="{suite}.html">{suite}</a></td><td class="{tone}"><b>{mark}</b></td>'
            f"<td>{num_failed} of {len(expectations)}</td></tr>"
        )
    return (
        "<h1>Data Docs</h1><p>What Great Expectations found, suite by suite.</p><table><thead><tr><th>suite</th>"
        f"<th>outcome</th><th>expectations that failed</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _write(path: Path, title: str, body: str) -> None:
    page = PAGE.format(title=html.escape(title), style=STYLE, body=body)
    path.write_text(page, encoding="utf-8", errors="replace")
