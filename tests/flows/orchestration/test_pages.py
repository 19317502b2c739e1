"""Prefect's pages of a run whose dataset, checks, rows and errors are hostile: in a browser they are text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from flows.orchestration.artifacts import show_cost, show_quality
from flows.orchestration.logs import logger
from tests.flows.prefect_services import PrefectServices, prefect_services
from tests.validations.report.browser import launched

pytestmark = pytest.mark.slow
EVIL = "evil.invalid"
MARKUP = (
    f'<img src="http://{EVIL}/a.png" onerror="alert(1)"><script>alert(2)</script><b id=evil>b</b>'
    f" ![c](http://{EVIL}/d.png) [e](javascript:alert(3)) <http://{EVIL}/f> | `g`\n# h\n<iframe src=http://{EVIL}/i>"
)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServices]:
    with prefect_services(tmp_path_factory.mktemp("services"), has_pages=True) as services:
        yield services


def make_run(folder: Path) -> None:
    """A failed run that shows a hostile dataset."""
    check = dict.fromkeys(("suite", "name", "limit", "value", "meaning", "why"), MARKUP) | {"outcome": "failed"}
    report = {
        "passed": False, "refusals": [MARKUP], "warnings": [MARKUP], "figures": {MARKUP: 1.0}, "checks": [check],
    }  # fmt: skip
    manifest = {
        "num_rows": 1, "engine": {"num_tokens": 1}, "num_attempts": 1, "num_damaged_parts": 0,
        "quarantine": {MARKUP: 3},
    }  # fmt: skip

    @flow(name="hostile", flow_run_name=MARKUP[:200])
    def hostile(config: str) -> None:
        show_quality(f"{MARKUP} v1", report, folder / "report.html")
        show_cost(f"{MARKUP} v1", manifest, folder / MARKUP.replace("/", "_"))
        logger.warning("%s", MARKUP)
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(flow_run.id, {"a": MARKUP})
        raise ValueError(MARKUP)

    hostile(MARKUP, return_state=True)


def test_hostile_text_is_text_on_every_page(services: PrefectServices, tmp_path: Path) -> None:
    # In a process of its own, whose threads send their last logs and events to this server.
    code = f"from {make_run.__module__} import make_run; from pathlib import Path; make_run(Path({str(tmp_path)!r}))"
    done = services.call("-c", code)
    assert done.returncode == 0, done.stdout
    (run,) = services.ask("POST", "flow_runs/filter", {})
    artifacts = [artifact for artifact in services.ask("POST", "artifacts/filter", {}) if artifact["key"]]
    assert {artifact["type"] for artifact in artifacts} == {"markdown", "table"}
    assert len(artifacts) == 8
    root = services.address.removesuffix("/api")
    paths = ["/dashboard", "/runs", f"/runs/flow-run/{run['id']}", "/artifacts"]
    paths += [f"/artifacts/artifact/{artifact['id']}" for artifact in artifacts]
    paths += [f"/artifacts/key/{artifact['key']}" for artifact in artifacts]
    requests, events = set[str](), list[str]()
    with launched() as browser:
        page = browser.new_context().new_page()

        def route(route: Route) -> None:
            requests.add(urlsplit(route.request.url).hostname or "")
            route.continue_() if route.request.url.startswith(root) else route.abort()

        page.context.route("**/*", route)
        page.on("dialog", lambda dialog: events.append(dialog.message))
        for path in paths:
            page.goto(root + path)
            page.wait_for_load_state("networkidle")
            assert_is_text(page, path)
    assert events == []
    assert EVIL not in requests


def assert_is_text(page: Page, path: str) -> None:
    """No element was made of it: no picture, frame, script, nor a link that runs or says that it leads elsewhere."""
    assert page.locator("#evil").count() == 0, path
    for selector in (f'[src*="{EVIL}"]', '[href^="javascript:" i]', "iframe"):
        assert page.locator(selector).count() == 0, f"{selector} at {path}"
    for link in page.locator(f'[href*="//{EVIL}"]').all():  # Prefect makes links of the addresses in logs and messages
        assert EVIL in (link.text_content() or ""), path
