"""Tests of opening a dataset, in a folder or an object store, by this pipeline or another program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sampling.errors import RefusedError, SourceError
from sampling.record import RECORD_SCHEMA
from tasks.publish.dataset import open_dataset
from tasks.store.durable import sha256_of
from tasks.store.mirror import Mirror
from tests.tasks.runs import make_config
from tests.tasks.store.s3 import s3_server
from tests.validations.measure.test_tokens import wide
from tests.validations.tables import facts, made_rows, to_table, written
from validations.limits import Limits
from validations.measure.metadata import DatasetMetadata
from validations.measure.scan import DatasetScan

TABLE = to_table(made_rows(12))


def published(folder: Path, **manifest: Any) -> Path:
    """Write a dataset of two files as the pipeline publishes it."""
    (folder / "data").mkdir(parents=True)
    paths = written(folder / "data", TABLE.slice(0, 6), TABLE.slice(6))
    files = [{"path": str(path.relative_to(folder)), "sha256": sha256_of(path)} for path in paths]
    (folder / "manifest.json").write_text(json.dumps({"name": "d", "version": "v1", "files": files, **manifest}))
    return folder


def test_a_published_dataset(tmp_path: Path) -> None:
    config = make_config(tmp_path, validation={"eos_rate_min": 0.125}).model_dump(mode="json")
    opened = open_dataset(published(tmp_path / "v1", config=config))
    assert [path.name for path in opened.files] == ["train-00000.parquet", "train-00001.parquet"]
    assert opened.title == "d v1"
    assert opened.limits.eos_rate_min == 0.125
    assert opened.damages() == []
    assert opened.metadata.unknown == "there is no facts.json beside the dataset"


def test_latest_is_the_version_that_it_names(tmp_path: Path) -> None:
    folder = published(tmp_path / "v1")
    (tmp_path / "latest").symlink_to("v1")
    opened = open_dataset(tmp_path / "latest")
    assert opened.path == folder.resolve()
    (folder / "manifest.json").unlink()
    assert open_dataset(str(tmp_path / "latest")).title == "v1"


def test_a_foreign_folder_or_file(tmp_path: Path) -> None:
    first, second = written(tmp_path, TABLE.slice(0, 6), TABLE.slice(6))
    opened = open_dataset(tmp_path)
    assert (opened.files, opened.manifest, opened.title) == ([first, second], None, tmp_path.name)
    assert opened.limits == Limits()
    assert opened.damages() == []
    one = open_dataset(second)
    assert (one.path, one.files) == (tmp_path, [second])
    (tmp_path / "data").mkdir()  # with a folder data/, files beside it are left out
    (inside,) = written(tmp_path / "data", TABLE)
    assert open_dataset(tmp_path).files == [inside]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    published(tmp_path / "v1")
    assert open_dataset("~/v1").title == "d v1"


def test_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="neither a folder nor a file"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="holds no Parquet file"):
        open_dataset(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(SourceError, match=r"rows\.jsonl cannot be read as Parquet"):
        open_dataset(tmp_path / "rows.jsonl")
    os.symlink("nowhere", tmp_path / "broken")
    with pytest.raises(SourceError, match="neither a folder nor a file"):
        open_dataset(tmp_path / "broken")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(SourceError, match=r"folder\.parquet cannot be read"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("num_bytes", [0, 4, -1])
def test_a_truncated_file(tmp_path: Path, num_bytes: int) -> None:
    (path,) = written(tmp_path, TABLE)
    data = path.read_bytes()
    path.write_bytes(data[:num_bytes])
    with pytest.raises(SourceError, match=r"train-00000\.parquet cannot be read as Parquet"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("name", [RECORD_SCHEMA.names[0], RECORD_SCHEMA.names[-1]])
def test_every_column_is_needed(tmp_path: Path, name: str) -> None:
    written(tmp_path, TABLE, TABLE.drop_columns([name]))
    with pytest.raises(SourceError, match=rf"train-00001\.parquet has no column '{name}'"):
        open_dataset(tmp_path)


def retyped(name: str, kind: pa.DataType) -> pa.Table:
    index = TABLE.schema.get_field_index(name)
    return TABLE.set_column(index, pa.field(name, kind), pa.nulls(len(TABLE), kind))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("id", pa.binary()), ("sample_idx", pa.float64()), ("sample_idx", pa.bool_()),
        ("completion", pa.list_(pa.string())), ("token_ids", pa.int32()), ("token_ids", pa.list_(pa.float32())),
        ("alpha", pa.list_(pa.int32())), ("alpha", pa.list_(pa.list_(pa.float32()))), ("mode", pa.list_(pa.int32())),
        ("mean_js", pa.decimal128(10, 2)), ("num_mixed", pa.null()),
    ],
)  # fmt: skip
def test_wrong_types(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    written(tmp_path, retyped(name, kind))
    with pytest.raises(SourceError, match=rf"column '{name}' is .*, where .* is needed"):
        open_dataset(tmp_path)


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    written(tmp_path, TABLE.append_column("alpha", TABLE["alpha"]))
    with pytest.raises(SourceError, match="column 'alpha' more than once"):
        open_dataset(tmp_path)


def metrics_of(folder: Path, known: DatasetMetadata) -> tuple[Any, ...]:
    opened = open_dataset(folder)
    scan = DatasetScan(opened.files, known)
    frames = [frame.drop(columns=["id", "finish_reason"]).astype(float) for frame in scan.frames()]
    return scan.metrics(), [frame.to_dict("list") for frame in frames], scan.aggregates().by_position


def to_unsigned(table: pa.Table) -> pa.Table:
    """Whole numbers without a sign, in lists too."""
    kinds = {pa.int32(): pa.uint32(), pa.list_(pa.int32()): pa.list_(pa.uint32())}
    return table.cast(pa.schema([pa.field(field.name, kinds.get(field.type, field.type)) for field in table.schema]))


@pytest.mark.parametrize("change", [wide, to_unsigned])
def test_wider_types_are_judged_alike(tmp_path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    own = TABLE.select(RECORD_SCHEMA.names)
    changed = change(own)
    assert changed.schema != own.schema
    for name, table in (("own", own), ("changed", changed)):
        (tmp_path / name).mkdir()
        written(tmp_path / name, table)
    known = facts()
    one, other = (metrics_of(tmp_path / name, known) for name in ("own", "changed"))
    assert one[0]["num_tokens"] == other[0]["num_tokens"] > 0
    assert str(one) == str(other)


LISTED = {"path": "data/train-00000.parquet"}


@pytest.mark.parametrize("listed", ["text", {"path": "x"}, None])
def test_a_manifest_that_lists_nothing(tmp_path: Path, listed: Any) -> None:
    assert open_dataset(published(tmp_path / "d", files=listed)).damages() == []


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"path": "../secret.parquet", "sha256": "0"}, "which is not in the dataset"),
        ({"path": "/etc/passwd", "sha256": "0"}, "which is not in the dataset"),
        ({"path": ["data"]}, "which is not in the dataset"),
        ({}, "lists None"),
        ("data/train-00000.parquet", "lists None"),
        (LISTED, "manifest.json lists None…"),
        ({**LISTED, "sha256": ["0"]}, "has sha256"),
    ],
)
def test_a_manifest_that_differs(tmp_path: Path, entry: Any, text: str) -> None:
    (tmp_path / "secret.parquet").write_bytes(b"")
    folder = published(tmp_path / "d")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = [entry, *manifest["files"]]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (damage,) = open_dataset(folder).damages()
    assert text in damage


def test_damage_shows(tmp_path: Path) -> None:
    folder = published(tmp_path / "d")
    path = folder / "data/train-00001.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    (damage,) = open_dataset(folder).damages()
    assert damage.startswith("data/train-00001.parquet has sha256 ")
    path.unlink()
    (damage,) = open_dataset(folder).damages()
    assert "'data/train-00001.parquet', which is not in the dataset" in damage


def test_a_file_that_was_added_shows(tmp_path: Path) -> None:
    folder = published(tmp_path / "d")
    pq.write_table(TABLE, folder / "data/train-00002.parquet")
    assert open_dataset(folder).damages() == ["data/train-00002.parquet is not listed in manifest.json"]


@pytest.mark.parametrize("text", ["[]", "null"])
def test_a_manifest_of_another_program(tmp_path: Path, text: str) -> None:
    folder = published(tmp_path / "d")
    (folder / "manifest.json").write_text(text)
    opened = open_dataset(folder)
    assert (opened.manifest, opened.title, opened.damages()) == (None, "d", [])


@pytest.mark.parametrize("data", [b"{", b"\xff\xff", b"[" * 100_000])
def test_a_manifest_that_is_not_json(tmp_path: Path, data: bytes) -> None:
    folder = published(tmp_path / "d")
    (folder / "manifest.json").write_bytes(data)
    with pytest.raises(SourceError, match=r"manifest\.json is no JSON document"):
        open_dataset(folder)


@pytest.mark.parametrize("config", [None, [], {}, {"validation": {"eos_rate_min": 7}}, {"mixture": {"preset": []}}])
def test_an_invalid_configuration(tmp_path: Path, config: Any) -> None:
    opened = open_dataset(published(tmp_path / "d", config=config, name=["x"], version={"a": 1}))
    assert opened.limits == Limits()
    assert opened.title == "['x'] {'a': 1}"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a folder in a real S3 server: the dataset v1, `latest`, a damaged dataset and a foreign file."""
    local = tmp_path_factory.mktemp("local")
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.env.items():
            patch.setenv(name, value)
        mirror = Mirror(f"{server.root}/made/d", local)
        mirror.push_tree(published(local / "v1"))
        published(local / "damaged")
        pq.write_table(TABLE, local / "damaged/data/train-00000.parquet")
        mirror.push_tree(local / "damaged")
        mirror.write(local / "latest", b"v1\n")
        mirror.write(local / "astray/latest", b"../v1")
        mirror.write(local / "stale/latest", b"v9")
        mirror.write(local / "text/file.txt", b"text")
        yield mirror.store.url


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v1/", "latest"])
def test_a_dataset_of_a_store(bucket: str, name: str) -> None:
    opened = open_dataset(f"{bucket}/{name}")
    assert opened.address == f"{bucket}/v1"
    assert (opened.title, opened.damages()) == ("d v1", [])
    assert [path.name for path in opened.files] == ["train-00000.parquet", "train-00001.parquet"]
    assert opened.path.name == "v1"


@pytest.mark.slow
def test_a_file_of_a_store(bucket: str) -> None:
    opened = open_dataset(f"{bucket}/v1/data/train-00001.parquet")
    assert pq.read_table(opened.files[0]).equals(TABLE.slice(6))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("v2", "nothing lies at s3://.*/made/d/v2; give a dataset's URL"),
        ("text", "s3://.*/made/d/text holds no Parquet file"),
        ("stale/latest", "nothing lies at s3://.*/stale/v9"),
        ("astray/latest", "latest holds the name '../v1', which would leave its folder"),
        ("text/latest", "nothing lies at s3://.*/text/latest"),
    ],
)
def test_what_is_no_dataset_of_a_store(bucket: str, name: str, text: str) -> None:
    with pytest.raises(SourceError, match=text):
        open_dataset(f"{bucket}/{name}")


@pytest.mark.slow
def test_urls_that_name_no_dataset(bucket: str) -> None:
    with pytest.raises(SourceError, match="is a whole bucket"):
        open_dataset(bucket.removesuffix("/made/d"))
    with pytest.raises(SourceError, match="bucket does not exist"):
        open_dataset("s3://nowhere/d/v1")
    with pytest.raises(SourceError, match="http://… is no object store"):
        open_dataset("http://host/d/v1")


@pytest.mark.slow
def test_damage_in_a_store_shows(bucket: str) -> None:
    with pytest.raises(RefusedError, match=r"^s3://.*/made/d/damaged: data/train-00000\.parquet has sha256"):
        open_dataset(f"{bucket}/damaged").check_whole()


@pytest.mark.slow
def test_a_download_is_removed_with_its_process(bucket: str) -> None:
    program = f"from tasks.publish.dataset import open_dataset\nprint(open_dataset({bucket + '/v1'!r}).path.is_dir())"
    program += f"\nprint(open_dataset({bucket + '/v1'!r}).path)"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    was_there, path = printed.stdout.split()
    assert was_there == "True"
    assert not Path(path).exists()
