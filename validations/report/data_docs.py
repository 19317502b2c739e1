"""Data Docs: Great Expectations' own pages on its results, rendered to stand without a network.

Its page template loads styles and scripts from CDNs; ours holds the same sections with one inline style sheet. No
text of a dataset needs escaping: the results hold counts and row numbers (validations/expectations.py).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from validations.verdict import Suite

TEMPLATE = Path(__file__).parent / "data_docs.html.jinja"
# Styles and options for bootstrap, which is not loaded; links to pages of a documentation site that is not written.
UNUSED_ATTRIBUTES = re.compile(r' (?:style|data-[a-z-]+)="[^"]*"| href="\.\./[^"]*"')


def write_data_docs(folder: Path, results: Mapping[Suite, dict[str, Any]]) -> None:
    """Write `index.html` and a page for each suite into `folder`, which is made where it is missing.

    `results` holds, by suite, the JSON of an ExpectationSuiteValidationResult.
    """
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResultSchema
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    folder.mkdir(parents=True, exist_ok=True)
    view = DefaultJinjaPageView(custom_views_directory=str(TEMPLATE.parent))
    suites = []
    for suite, result in results.items():
        loaded = ExpectationSuiteValidationResultSchema().load(copy.deepcopy(result))
        document = ValidationResultsPageRenderer(run_info_at_end=True).render(loaded)
        page = UNUSED_ATTRIBUTES.sub("", view.render(document, TEMPLATE.name, suite=suite))
        (folder / f"{suite}.html").write_text(page, encoding="utf-8")
        suites.append((suite, sum(not each["success"] for each in result["results"]), len(result["results"])))
    index = view.env.get_template(TEMPLATE.name).render(suites=suites)
    (folder / "index.html").write_text(index, encoding="utf-8")
