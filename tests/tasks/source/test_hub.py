"""Tests of datasets of the Hub, without a network: `datasets` reads a local folder with the same code."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sampling.bounds import Bounds
from sampling.errors import SourceError
from tasks.config import SourceConfig
from tasks.source.source import _check_builder, open_source
from tasks.source.source_row import QuarantinedRow, SourceRow


@pytest.fixture
def hub(tmp_path: Path) -> str:
    (tmp_path / "hub" / "data").mkdir(parents=True)
    table = pa.table({"question": ["1+1?", "2+2?"], "answer": ["#### 2", "#### 4"]})
    pq.write_table(table, tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    return str(tmp_path / "hub")


def test_a_hub_dataset_is_streamed(hub: str) -> None:
    source = open_source(SourceConfig(hub=hub))
    assert source.files == (f"hf://datasets/{hub}",)
    assert list(source.rows()) == [
        SourceRow(f"{hub}:1", {"question": "1+1?", "answer": "#### 2"}),
        SourceRow(f"{hub}:2", {"question": "2+2?", "answer": "#### 4"}),
    ]
    assert list(source.rows()) == list(source.rows())
    assert open_source(SourceConfig(hub=hub)).fingerprint == source.fingerprint
    assert open_source(SourceConfig(hub=hub, limit=1)).fingerprint != source.fingerprint


def test_a_streamed_row_that_python_cannot_hold_or_that_is_too_large(hub: str) -> None:
    table = pa.table({"text": ["a", "x" * 50, "b"], "day": pa.array([0, 0, 10**17 * 3], pa.timestamp("us"))})
    pq.write_table(table, Path(hub) / "data" / "train-00000-of-00001.parquet")
    first, long, far = open_source(SourceConfig(hub=hub), Bounds(cell_bytes=40)).rows()
    assert first == SourceRow(f"{hub}:1", {"text": "a", "day": datetime(1970, 1, 1)})
    assert isinstance(long, QuarantinedRow)
    assert (long.row, long.reason) == (f"{hub}:2", "too_large")
    assert far == SourceRow(f"{hub}:3", {"text": "b", "day": "11476-08-15 05:20:00.000000"})


def test_a_missing_split_is_an_error(hub: str) -> None:
    with pytest.raises(SourceError, match="cannot be opened: Bad split: tset") as caught:
        open_source(SourceConfig(hub=hub, split="tset"))
    assert "\n" not in str(caught.value)


def test_offline_without_a_cached_copy_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SourceError, match="'org/name' is not in the local cache and HF_HUB_OFFLINE is set; unset"
    ) as caught:
        open_source(SourceConfig(hub="org/name"))
    assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the branch's name a resumed run would be another one, whose rows are all sampled anew."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        SourceError, match=r"the commit of its revision 'v1' is not known \(.*a commit as source\.revision"
    ):
        open_source(SourceConfig(hub="org/name", revision="v1"))


OUTSIDE = (
    "/tmp/private.txt",
    "../private.txt",
    "data/../../private.txt",
    "file:///tmp/private.txt",
    "~/private.txt",
    "http://127.0.0.1:9/meta.txt",
    "zip://a.txt::/tmp/private.zip",
    "hf://datasets/other/name/a.txt",
    "/tmp/priv*",
)


@pytest.mark.parametrize("pattern", OUTSIDE)
@pytest.mark.parametrize("card", ["path", "list", "data_dir", "yaml"])
def test_a_card_that_names_files_outside_of_the_dataset_is_refused_unread(
    hub: str, pattern: str, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a stranger's README chooses what of this machine, or of its network, is read and published."""
    import datasets

    monkeypatch.setattr(datasets, "load_dataset_builder", None)  # which asks for the files it finds
    subset: dict[str, Any] = {"config_name": "default"}
    if card == "data_dir":
        subset["data_dir"] = pattern
    else:
        subset["data_files"] = [{"split": "train", "path": ["data/*", pattern] if card == "list" else pattern}]
    text = json.dumps({"configs": [subset]})
    name = ".huggingface.yaml" if card == "yaml" else "README.md"
    (Path(hub) / name).write_text(text if card == "yaml" else f"---\n{text}\n---\n")
    with pytest.raises(SourceError, match=re.escape(f"its {name} names {pattern!r}, which is no file of the dataset")):
        open_source(SourceConfig(hub=hub))


def test_a_card_that_names_files_of_the_dataset_is_followed(hub: str) -> None:
    (Path(hub) / "README.md").write_text(
        '---\nconfigs: [{config_name: a, data_files: "data/train*", data_dir: ./}]\n---\n'
    )
    assert len(list(open_source(SourceConfig(hub=hub)).rows())) == 2


def test_a_link_out_of_the_dataset_is_not_followed(hub: str, tmp_path: Path) -> None:
    file = Path(hub) / "data" / "train-00000-of-00001.parquet"
    file.rename(tmp_path / "private.parquet")
    file.symlink_to(tmp_path / "private.parquet")
    with pytest.raises(SourceError, match=r"is a link to .*private\.parquet, outside"):
        open_source(SourceConfig(hub=hub))


def test_what_the_hubs_dataset_resolves_to_is_below_its_commit(hub: str) -> None:
    import datasets

    builder = datasets.load_dataset_builder(hub)
    root = f"hf://datasets/org/name@{'a' * 40}/"
    for file in (f"hf://datasets/org/name@{'b' * 40}/a.csv", f"{root}../x.csv", f"{root[:-1]}a/x.csv", "/x.csv"):
        builder.config.data_files = {"train": [f"{root}a.csv", file]}
        with pytest.raises(SourceError, match=f"names {file!r}, which is not below {root}"):
            _check_builder(builder, "org/name", "a" * 40)
    builder.config.data_files = {"train": [f"{root}a.csv", f"{root}data/b..csv"]}
    _check_builder(builder, "org/name", "a" * 40)


def test_a_format_that_opens_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(SourceError, match="reads as 'hdf5'; this reads csv, json"):
        open_source(SourceConfig(hub=str(tmp_path)))
