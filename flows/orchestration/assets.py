"""A published dataset as an asset of Prefect, whose lineage leads back to its source."""

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
MAX_SOURCES = 20  # Prefect takes 100 related resources an event; more files are told by their folder


def record_dataset(dataset: str, manifest: Mapping[str, Any]) -> None:
    """Tell Prefect of a published dataset; the task run that does it is where Prefect's events come from.

    The asset is the dataset's name, `file:///<root>/<name>` (or its URL); each version is one materialisation of it.
    """
    key = key_of_place(dataset.rpartition("/")[0])
    asset = Asset(key=key, properties=AssetProperties(name=manifest["name"], url=uri_of(dataset)))
    _materialize(asset, source_keys(manifest["source"]["files"]), metadata_of(dataset, manifest))


def record_upload(dataset: str, manifest: Mapping[str, Any], repo_id: str) -> None:
    """Tell Prefect that a published dataset is on the Hub as `repo_id` (`org/name`), made of the one on the disk."""
    asset = Asset(key=f"hf://datasets/{repo_id}", properties=AssetProperties(name=repo_id))
    _materialize(asset, [key_of_place(dataset.rpartition("/")[0])], metadata_of(dataset, manifest))


def metadata_of(dataset: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What an asset's page shows of a version."""
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


def source_keys(files: Sequence[str]) -> list[str]:
    """The keys of a source's files, `hf://datasets/org/name` among them as they are."""
    if len(files) > MAX_SOURCES:
        return [key_of_place(os.path.commonpath([os.path.abspath(file) for file in files]))]
    return [key_of_place(file) for file in files]


def key_of_place(place: str) -> str:
    """A path, or a URL, as an asset's key.

    One that holds what a key may not is told from its likes by 8 digits of its hash.
    """
    whole = place if "://" in place else f"file://{os.path.abspath(place)}"
    plain = FORBIDDEN.sub("_", whole)[: MAX_KEY_CHARACTERS - len("~01234567")]
    if plain == whole:
        return whole
    return f"{plain}~{hashlib.sha256(os.fsencode(whole)).hexdigest()[:8]}"


def _materialize(asset: Asset, sources: Sequence[str], metadata: dict[str, Any]) -> None:
    def record() -> None:
        add_asset_metadata(asset, metadata)

    materialize(asset, by="dual-sampling", asset_deps=[*sources], name="record-dataset", cache_policy=NO_CACHE)(
        record
    )()
