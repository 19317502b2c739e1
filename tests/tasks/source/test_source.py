"""Tests of the files that a source's configuration stands for, with their fingerprint."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sampling.errors import SourceError
from sampling.processes.child import Child
from tasks.config import SourceConfig
from tasks.source import columnar
from tasks.source.source import open_source
from tasks.source.source_row import SourceRow


def write(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def texts_of(path: str | tuple[str, ...]) -> list[Any]:
    rows = open_source(SourceConfig(path=path)).rows()
    return [row.fields["text"] for row in rows if isinstance(row, SourceRow)]


def test_folders_globs_and_lists(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", "b")
    write(tmp_path / "a.jsonl", "a")
    write(tmp_path / "deep" / "er" / "c.jsonl", "c")
    write(tmp_path / ".hidden" / "d.jsonl", "d")
    (tmp_path / "deep" / "z.jsonl.gz").write_bytes(gzip.compress(b'{"text": "z"}\n'))
    (tmp_path / "README.md").write_text("no data")
    root = str(tmp_path)
    assert texts_of(root) == ["a", "b", "c", "z"]
    assert texts_of(f"{root}/*.jsonl") == ["a", "b"]
    with pytest.raises(SourceError, match=rf"'{root}/\*': {root}/README.md has no format known"):
        texts_of(f"{root}/*")
    assert texts_of(f"{root}/**/*.jsonl") == ["a", "b", "c"]
    assert texts_of((f"{root}/b.jsonl", f"{root}/*.jsonl")) == ["b", "a"]  # in the order given, each once
    source = open_source(SourceConfig(path=root))
    assert source.files == tuple(
        f"{root}/{name}" for name in ("a.jsonl", "b.jsonl", "deep/er/c.jsonl", "deep/z.jsonl.gz")
    )
    assert list(source.rows()) == list(source.rows())  # each call starts afresh
    assert source.notes == (f"not read: {root}/README.md, in no format known",)


def test_a_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    assert texts_of(str(write(tmp_path / "a[1].jsonl", "x"))) == ["x"]


def test_the_files_of_a_folder_are_decoded_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        pq.write_table(pa.table({"text": [str(i)]}), tmp_path / f"{i}.parquet")
    started: list[Child] = []

    class Counted(Child):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    columnar.end_idle()
    monkeypatch.setattr(columnar, "Child", Counted)
    assert texts_of(str(tmp_path)) == ["0", "1", "2"]
    (only,) = started
    assert only.process.poll() is not None  # it has ended with the source
    (tmp_path / "1.parquet").write_bytes(b"broken")
    with pytest.raises(SourceError, match=r"1\.parquet cannot be read"):
        texts_of(str(tmp_path))
    assert texts_of(f"{tmp_path}/2.parquet") == ["2"]


def test_relative_and_home_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jsonl", "a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert texts_of("a.jsonl") == texts_of("~/a.jsonl") == texts_of("*.jsonl") == texts_of(".") == ["a"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nope.jsonl", "'nope.jsonl' does not exist; looked for /.*/nope.jsonl"),
        ("nope/*.jsonl", "matches no file in /.*; looked for .json, .jsonl"),
        ("empty", "is a folder without data files; looked for .json, .jsonl"),
        (
            "notes.md",
            "notes.md has no format known: .json, .jsonl, .*parquet, .arrow, .txt, each also with .gz, .bz2, .xz, .zst",
        ),
        ("mixed", r"several formats \(1 json, 2 parquet\); .* such as 'mixed/\*\*/\*\.parquet\*'"),
        ((), "source.path is an empty list"),
    ],
)
def test_a_source_that_does_not_exist_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("notes.md", "empty/notes.md", "mixed/manifest.json", "mixed/data/a.parquet", "mixed/data/b.parquet"):
        write(tmp_path / name)
    with pytest.raises(SourceError, match=message) as caught:
        open_source(SourceConfig(path=path))
    assert "\n" not in str(caught.value)


def fingerprint(**config: Any) -> str:
    return open_source(SourceConfig(**config)).fingerprint


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", "a"), write(tmp_path / "b.jsonl", "b")
    copies = [write(tmp_path / "copy" / "x.jsonl", "a"), write(tmp_path / "copy" / "y.jsonl", "b")]
    base = fingerprint(path=(str(first), str(second)))
    assert len(base) == 32
    assert int(base, 16) >= 0
    assert fingerprint(path=tuple(map(str, copies))) == base
    different = [
        fingerprint(path=(str(second), str(first))),
        fingerprint(path=str(first)),
        fingerprint(path=(str(first), str(second)), limit=1),
        fingerprint(path=(str(first), str(write(tmp_path / "changed.jsonl", "B")))),
        fingerprint(path=(str(first), str(write(tmp_path / "b.txt", "b")))),  # the same bytes, other rows
    ]
    assert len({base, *different}) == 6


@pytest.mark.parametrize("pattern", ["", "/*.jsonl", "/a.jsonl"])
def test_a_pipe_or_a_loop_of_links_is_refused_at_once(tmp_path: Path, pattern: str) -> None:
    """Opened, a pipe would wait for a writer for ever."""
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(SourceError, match="is no regular file"):
        open_source(SourceConfig(path=f"{tmp_path}{pattern}"))
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.jsonl").symlink_to("a.jsonl")
    with pytest.raises(SourceError, match=r"is no regular file|does not exist"):
        open_source(SourceConfig(path=f"{tmp_path}{pattern}"))
