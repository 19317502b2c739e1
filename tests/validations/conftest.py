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
    """Gives a watched page; options are those of a playwright context."""

    def __call__(self, **options: Any) -> AbstractContextManager[Watched]: ...


@pytest.fixture(
    scope="module"
)  # not longer: while it lives, an asyncio loop runs in this thread, and others' tests fail
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser) -> OpenPage:
    return lambda **options: watched(browser, **options)
