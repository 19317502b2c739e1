"""Tests of what a local path stands for: splits, subsets, saved datasets, links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampling.errors import SourceError
from tasks.config import SourceConfig
from tasks.source.source import open_source
from tasks.source.source_row import SourceRow
from tests.tasks.source.test_source import texts_of, write


def split_of(root: Path, split: str | None, path: str = "") -> Any:
    """The rows of a split, or why there are none."""
    given: dict[str, Any] = {} if split is None else {"split": split}
    try:
        source = open_source(SourceConfig(path=f"{root}/{path}", **given))
    except SourceError as error:
        return str(error).replace(str(root), "")
    return [row.fields["text"] for row in source.rows() if isinstance(row, SourceRow)]


@pytest.mark.parametrize(
    "names",
    [
        ("data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"),
        ("train.jsonl", "test.jsonl"),
        ("my_train_v2.jsonl", "eval.jsonl"),
        ("train/a.jsonl", "test/a.jsonl"),
        ("main/train/0.jsonl", "main/testing/0.jsonl"),
    ],
)
def test_a_split_is_told_by_the_names_of_files(tmp_path: Path, names: tuple[str, str]) -> None:
    train, _ = (write(tmp_path / name, text) for name, text in zip(names, ("a", "b"), strict=True))
    assert split_of(tmp_path, None) == split_of(tmp_path, "train") == ["a"]  # as load_dataset(…, split="train")
    assert split_of(tmp_path, "test") == ["b"]
    assert "has no split 'validation'; there are: test, train" in split_of(tmp_path, "validation")
    assert open_source(SourceConfig(path=str(tmp_path), split="test")).notes == (
        f"not read: {train}, of other splits than source.split (test)",
    )
    assert split_of(tmp_path, None, names[1]) == ["b"]  # a file that is named is read
    write(tmp_path / "more.jsonl", "c")
    assert f"that of {tmp_path}/more.jsonl does not; name".replace(str(tmp_path), "") in split_of(tmp_path, "test")


def test_files_whose_names_tell_no_split_are_train(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "a")
    write(tmp_path / "my-test.jsonl", "b")
    assert "has no split 'train'; there are: test" in split_of(tmp_path, "train", "my-test.jsonl")
    (tmp_path / "my-test.jsonl").unlink()
    assert split_of(tmp_path, "train") == split_of(tmp_path, "train", "*.jsonl") == split_of(tmp_path, None) == ["a"]
    for path in ("", "a.jsonl", "*.jsonl"):
        assert "has no split 'test'; no file's name tells its split" in split_of(tmp_path, "test", path)


def test_the_split_of_shards_may_have_any_name(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train_sft-00000-of-00001.jsonl", "a")
    write(tmp_path / "data" / "test_sft-00000-of-00001.jsonl", "b")
    assert split_of(tmp_path, "test_sft") == ["b"]
    assert "has no split 'train'; there are: test_sft, train_sft" in split_of(tmp_path, None)


def test_a_subset_is_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "main" / "a.jsonl", "a")
    write(tmp_path / "socratic" / "a.jsonl", "b")
    rows = open_source(SourceConfig(path=str(tmp_path), subset="socratic")).rows()
    assert [row.fields for row in rows if isinstance(row, SourceRow)] == [{"text": "b"}]
    for path, subset, message in [("", "x", "'x' is no folder in"), ("main/a.jsonl", "main", "or for a folder")]:
        with pytest.raises(SourceError, match=message):
            open_source(SourceConfig(path=f"{tmp_path}/{path}", subset=subset))
    with pytest.raises(ValueError, match=r"source\.revision is for source\.hub"):
        SourceConfig(path=str(tmp_path), revision="main")


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    import datasets

    train = datasets.Dataset.from_dict({"text": ["a", "b", "c"]})
    train.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict(train=train, test=train.select([1])).save_to_disk(tmp_path / "two")
    (tmp_path / "one" / "cache-0123.arrow").write_bytes(b"of an earlier map")
    assert split_of(tmp_path, None, "one") == split_of(tmp_path, None, "two") == ["a", "b", "c"]
    assert split_of(tmp_path, "test", "two") == ["b"]
    assert open_source(SourceConfig(path=f"{tmp_path}/one")).notes == (
        f"not read: {tmp_path}/one/cache-0123.arrow, in no format known",
    )


# --- links ---


def test_links_lead_out_of_no_folder(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.jsonl", "secret")
    folder = write(tmp_path / "data" / "a.jsonl", "a").parent
    (folder / "same.jsonl").symlink_to(folder / "a.jsonl")
    assert texts_of(str(folder)) == ["a"]  # a link inside: read once
    (tmp_path / "linked").symlink_to(folder)
    (tmp_path / "linked.jsonl").symlink_to(secret)
    assert texts_of(str(tmp_path / "linked")) == ["a"]  # the user names the link
    assert texts_of(str(tmp_path / "linked.jsonl")) == ["secret"]
    for target in (secret, tmp_path):
        (folder / "b.jsonl").symlink_to(target)
        with pytest.raises(SourceError, match=rf"data/b\.jsonl is a link to {target}, outside {folder}: no link is"):
            texts_of(str(folder))
        (folder / "b.jsonl").unlink()
    (folder / "b.jsonl").symlink_to(secret)
    with pytest.raises(SourceError, match=r"b\.jsonl is a link to"):
        texts_of(f"{folder}/*.jsonl")


def test_the_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--org--name"
    blob = write(repository / "blobs" / "0123", "a")
    snapshot = repository / "snapshots" / "abcd"
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "data" / "train.jsonl").symlink_to("../../../blobs/0123")
    for path in (snapshot, snapshot / "data", snapshot / "data" / "*.jsonl", snapshot / "data" / "train.jsonl"):
        assert texts_of(str(path)) == ["a"]
    blob.unlink()
    blob.symlink_to(write(tmp_path / "secret.jsonl", "secret"))
    with pytest.raises(SourceError, match=r"train\.jsonl is a link to .*secret\.jsonl"):
        texts_of(str(snapshot))
