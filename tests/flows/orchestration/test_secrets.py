"""Tests of the storage options from a Prefect Secret block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.orchestration.secrets import STORAGE, storage_options
from sampling.errors import ConfigurationError

URL = "s3://bucket/out"
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def block() -> Iterator[Any]:
    """Store a value in the block that storage options are read from."""

    def store(value: Any) -> None:
        Secret(value=value).save(STORAGE, overwrite=True)

    yield store
    Secret.delete(STORAGE)


def test_options_of_an_object_store_come_from_its_block(block: Any) -> None:
    assert storage_options(URL) == {}
    block({"key": "k", "client_kwargs": {"region_name": "eu"}})
    assert storage_options(URL) == {"key": "k", "client_kwargs": {"region_name": "eu"}}
    assert storage_options("/data/published") == {}


def test_a_block_that_holds_no_object_is_refused_and_not_shown(block: Any) -> None:
    block("a-secret-word")
    with pytest.raises(ConfigurationError, match=f"{STORAGE} holds a str; store an object") as error:
        storage_options(URL)
    assert "a-secret-word" not in str(error.value)


def test_no_server_is_started_to_look_for_a_block(block: Any) -> None:
    block({"key": "k"})
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert storage_options(URL) == {}
