"""Fixtures that several folders share."""

from __future__ import annotations

import flows.environment  # noqa: F401  isort: skip  (before torch, vLLM, Prefect)

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a random teacher with a theta that resembles it."""
    from tests.tiny import make_pair

    return make_pair(tmp_path_factory.mktemp("tiny"), noise=0.5)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The address of one Prefect server for all tests, with a database of its own; its start takes 10 s."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        address = PREFECT_API_URL.value()
        assert address is not None
        yield address
