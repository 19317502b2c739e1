"""The Prefect assets of a published dataset, with its source files upstream."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.assets import Asset, AssetProperties, add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE

from flows.orchestration.artifacts import uri_of

FORBIDDEN = re.compile(r"""[\s\0#?&%"'<>\[\]{}|\\^`]""")  # in an asset's key, by prefect.types.names
MAX_KEY_CHARACTERS = 512
MAX_SOURCES = 20  # Prefect takes 100 related resources an event; more files are recorded as their common folder


def record_dataset(dataset: str, manifest: Mapping[str, Any]) -> None:
    """Record a published dataset, in a task run, because only those emit Prefect's asset events.

    The asset is the dataset's name, `file:///<root>/<name>` (or its URL); each version is one materialisation of it.
    """
    properties = AssetProperties(name=manifest["name"], url=uri_of(dataset))
    asset = Asset(key=_key_of_dataset(dataset), properties=properties)
    _materialize(asset, source_keys(manifest["source"]["files"]), _metadata(dataset, manifest))


def record_upload(dataset: str, manifest: Mapping[str, Any], repo_id: str) -> None:
    """Record the copy of a published dataset on the Hub, as `repo_id` (`org/name`), with the published one upstream."""
    asset = Asset(key=f"hf://datasets/{repo_id}", properties=AssetProperties(name=repo_id))
    _materialize(asset, [_key_of_dataset(dataset)], _metadata(dataset, manifest))


def source_keys(files: Sequence[str]) -> list[str]:
    """Return the keys of a source's files; `hf://datasets/org/name` is one already."""
    if len(files) > MAX_SOURCES:
        files = [os.path.commonpath([os.path.abspath(file) for file in files])]
    return [key_of_place(file) for file in files]


def key_of_place(place: str) -> str:
    """Return a path, or a URL, as an asset's key.

    Forbidden characters become `_`; 8 hexadecimal digits of the address's SHA-256 then keep the key unique.
    """
    whole = place if "://" in place else f"file://{os.path.abspath(place)}"
    plain = FORBIDDEN.sub("_", whole)[: MAX_KEY_CHARACTERS - len("~01234567")]
    return whole if plain == whole else f"{plain}~{hashlib.sha256(os.fsencode(whole)).hexdigest()[:8]}"


def _key_of_dataset(dataset: str) -> str:
    """Return the key that all versions of a dataset share; `dataset` is the address of one version."""
    return key_of_place(dataset.rpartition("/")[0])


def _metadata(dataset: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an asset's page shows of a version."""
    models = manifest["config"]["models"]
    return {
        "version": manifest["version"],
        "run_id": manifest["run_id"],
        "path": dataset,
        "num_rows": manifest["num_rows"],
        "num_quarantined": sum(manifest["quarantine"].values()),
        "teacher": models["teacher"]["model"],
        "theta": models["theta"]["model"],
        "figures": manifest["figures"],
    }


def _materialize(asset: Asset, sources: Sequence[str], metadata: dict[str, Any]) -> None:
    @materialize(asset, by="dual-sampling", asset_deps=[*sources], name="record-dataset", cache_policy=NO_CACHE)
    def record() -> None:
        add_asset_metadata(asset, metadata)

    record()
