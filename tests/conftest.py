"""Fixtures that several folders share."""

from __future__ import annotations

import flows.environment  # noqa: F401  isort: skip  (before torch, vLLM, Prefect)

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a random teacher with a theta that resembles it."""
    from tests.tiny import make_pair

    return make_pair(tmp_path_factory.mktemp("tiny"), noise=0.5)
