"""Page of a real browser that records errors, messages and requests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

# Computed colours may be color(srgb …); a canvas says what the screen shows. What lies behind an element is the
# nearest ancestor's background: the pages draw none that is half transparent.
CONTRAST = """elements => {
  const context = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgb = colour => {
    context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data;
  };
  const luminance = c => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const s = c[i] / 255; return sum + weight * (s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4);
  }, 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c[3] === 255) return c;
    }
    return rgb('white');
  };
  return elements.filter(e => e.getClientRects().length).map(element => {
    const style = getComputedStyle(element);
    const [a, b] = [rgb(element.tagName === 'text' ? style.fill : style.color), behind(element)].map(luminance);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
}"""


@dataclass
class Watched:
    """A page, with its console messages, its errors and the addresses that it asked for."""

    page: Page
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, path: Path) -> Page:
        """Open a file and wait until it is loaded."""
        self.page.goto(path.as_uri(), wait_until="load")
        return self.page

    def contrast(self, selector: str) -> list[float]:
        """Return the contrast ratio of text and background of each visible element that matches."""
        ratios: list[float] = self.page.eval_on_selector_all(selector, CONTRAST)
        assert ratios, f"nothing visible matches {selector}"
        return ratios

    def check_quiet(self, *paths: Path) -> None:
        """Assert that there was no message, no error, and no request but for these files."""
        assert self.messages == []
        assert [request.partition("#")[0] for request in self.requests] == [path.as_uri() for path in paths]


@contextmanager
def launched() -> Iterator[Browser]:
    """Start Debian's chromium, headless; without one skip the test, or fail it where CI is set."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium on the PATH: apt-get install chromium")
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def watched(browser: Browser, **options: Any) -> Iterator[Watched]:
    """Open a page without a network; `options` are those of a playwright context."""
    context = browser.new_context(**options)
    seen = Watched(context.new_page())

    def route(route: Route) -> None:
        seen.requests.append(route.request.url)
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            route.abort()

    context.route("**/*", route)
    seen.page.on("console", lambda message: seen.messages.append(message.text))
    seen.page.on("pageerror", lambda error: seen.messages.append(str(error)))
    seen.page.on("dialog", lambda dialog: seen.messages.append(f"dialog: {dialog.message}"))
    yield seen
    context.close()
