"""Fixtures of the tests that open pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.validations.report.browser import Watched, launched, watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser


class OpenPage(Protocol):
    """Return a watched page; options are those of a playwright context."""

    def __call__(self, **options: Any) -> AbstractContextManager[Watched]: ...


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that open a browser as slow."""
    for item in items:
        if "open_page" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


# Not of a longer scope: until it ends, an asyncio loop runs in this thread, in which others' tests fail.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser) -> OpenPage:
    return lambda **options: watched(browser, **options)
