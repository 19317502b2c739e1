"""Tests of the asset of a published dataset: each version a materialisation, its source upstream."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.assets import Asset
from prefect.client.orchestration import get_client

from flows.orchestration.assets import (
    MAX_KEY_CHARACTERS,
    MAX_SOURCES,
    key_of_place,
    record_dataset,
    record_upload,
    source_keys,
)
from tests.tasks.runs import make_config

LIMIT_S = 60.0  # events take a second to the server's database


def materialisations(key: str) -> list[dict[str, Any]]:
    """The events of an asset's materialisations, once there is one."""
    wanted = {"event": {"name": ["prefect.asset.materialization.succeeded"]}, "any_resource": {"id": [key]}}
    deadline = time.monotonic() + LIMIT_S
    with get_client(sync_client=True) as client:
        while True:
            reply = client.request("POST", "/events/filter", json={"filter": wanted}).json()
            if found := [event for event in reply["events"] if event["resource"]["prefect.resource.id"] == key]:
                return found
            assert time.monotonic() < deadline
            time.sleep(0.1)


def manifest(root: Path, *files: str) -> dict[str, Any]:
    return {
        "name": "shells",
        "version": "v1",
        "run_id": "0123456789ab",
        "num_rows": 10,
        "quarantine": {"bad_row": 1, "empty_prompt": 2},
        "figures": {"eos_rate": 0.9, "leak_rate": None},
        "source": {"files": list(files)},
        "config": make_config(root).model_dump(mode="json"),
    }


@pytest.mark.slow
def test_a_version_is_a_materialisation_with_its_source_upstream(prefect_server: str, tmp_path: Path) -> None:
    root = tmp_path / "my datasets"
    dataset, source = root / "shells" / "v1", tmp_path / "rows.jsonl"
    published = manifest(root, str(source), "hf://datasets/org/more")

    @flow
    def run() -> None:
        record_dataset(str(dataset), published)
        record_upload(str(dataset), published, "org/shells")

    run()
    key = key_of_place(str(dataset.parent))
    (event,) = materialisations(key)
    assert event["resource"]["prefect.resource.name"] == "shells"
    assert event["resource"]["prefect.asset.url"] == dataset.as_uri()
    upstream = {item["prefect.resource.id"] for item in event["related"] if item["prefect.resource.role"] == "asset"}
    assert upstream == {f"file://{source}", "hf://datasets/org/more"}
    assert event["payload"] == {
        "version": "v1",
        "run_id": "0123456789ab",
        "path": str(dataset),
        "num_rows": 10,
        "num_quarantined": 3,
        "teacher": "a",
        "theta": "b",
        "figures": {"eos_rate": 0.9, "leak_rate": None},
    }
    (upload,) = materialisations("hf://datasets/org/shells")
    upstream = {item["prefect.resource.id"] for item in upload["related"] if item["prefect.resource.role"] == "asset"}
    assert upstream == {key}


@pytest.mark.parametrize("name", ["plain", "with space", "50%", "x" * 600, "a\"[]{}|\\^`<>#?&'\n\t"])
def test_any_path_is_a_key_that_prefect_takes(name: str) -> None:
    key = key_of_place(f"/data/{name}")
    assert Asset(key=key).key == key
    assert len(key) <= MAX_KEY_CHARACTERS
    assert key != key_of_place(f"/data/{name}_")
    assert (key == f"file:///data/{name}") == (name == "plain")


def test_paths_that_differ_in_forbidden_characters_have_different_keys() -> None:
    assert len({key_of_place(f"/data/{name}") for name in ("a b", "a%b", "a_b", "a\tb")}) == 4


def test_many_source_files_are_recorded_as_their_folder() -> None:
    files = [f"/data/rows/{i % 2}/{i}.jsonl" for i in range(MAX_SOURCES)]
    assert source_keys(files) == [f"file://{file}" for file in files]
    assert source_keys([*files, "/data/rows/one.jsonl"]) == ["file:///data/rows"]
