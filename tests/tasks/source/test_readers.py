"""Tests of the readers: every format, intact or broken."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sampling.errors import SourceError
from tasks.source.readers import QuarantinedRow, SourceRow, format_of, read_rows

ROWS: list[dict[str, Any]] = [
    {"question": "1+1?", "answer": "#### 2"},
    {"question": 'Où, "said"\nshe', "answer": "007"},
]


def as_json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


CSV = 'question,answer\n1+1?,#### 2\n\n"Où, ""said""\nshe",007\n'
CONTENTS: dict[str, bytes] = {
    "rows.jsonl": as_json_lines(ROWS),
    "rows.ndjson": b"\n" + as_json_lines(ROWS).replace(b"\n", b"\r\n"),
    "lines.json": as_json_lines(ROWS),
    "list.json": json.dumps(ROWS, indent=1).encode(),
    "bom.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "bom.jsonl": b"\xef\xbb\xbf" + as_json_lines(ROWS),
    "wrapped.json": json.dumps({"version": 1, "data": ROWS}, indent=1).encode(),
    "keyed.json": json.dumps({"a": ROWS[0], "b": ROWS[1]}).encode(),
    "rows.csv": CSV.encode(),
    "bom.csv": b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").replace('said""\r\n', 'said""\n').encode(),
    "rows.tsv": CSV.replace("1+1?,", "1+1?\t").replace("question,", "question\t").replace('she",', 'she"\t').encode(),
    "rows.parquet": as_parquet(ROWS),
}


def read(path: Path, content: bytes) -> list[SourceRow | QuarantinedRow]:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return list(read_rows(path))


def fields_of(rows: list[SourceRow | QuarantinedRow]) -> list[dict[str, Any]]:
    assert all(isinstance(row, SourceRow) for row in rows), rows
    return [row.fields for row in rows if isinstance(row, SourceRow)]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", CONTENTS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, suffix: str) -> None:
    assert fields_of(read(tmp_path / (name + suffix), CONTENTS[name])) == ROWS


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_line_of_txt_is_a_row(tmp_path: Path, suffix: str) -> None:
    rows = read(tmp_path / f"a.txt{suffix}", b"one\r\n\n two\nlast")
    assert fields_of(rows) == [{"text": "one"}, {"text": " two"}, {"text": "last"}]
    assert [row.location for row in rows if isinstance(row, SourceRow)] == [
        f"{tmp_path}/a.txt{suffix}:{n}" for n in (1, 3, 4)
    ]


def test_one_object_is_one_row(tmp_path: Path) -> None:
    conversation = {"id": "x", "conversations": [{"from": "human", "value": "hi"}]}
    assert fields_of(read(tmp_path / "a.json", json.dumps(conversation).encode())) == [conversation]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.txt"])
@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str, content: bytes) -> None:
    assert read(tmp_path / name, content) == []


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b'{"question": "cut off', "not_json", "Unterminated string"),
        (b"question: 1", "not_json", "Expecting value"),
        (b'{"question": "\xff"}', "not_utf8", "byte 0xff at 14"),
        (b'["a list"]', "not_an_object", "a list"),
        (b"null", "not_an_object", "a NoneType"),
        (b"[" * 100_000, "not_json", "recursion"),
        (b"1" * 5000, "not_json", "Exceeds the limit"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_broken_line_is_quarantined_alone(tmp_path: Path, name: str, line: bytes, reason: str, detail: str) -> None:
    good = as_json_lines(ROWS[:1])
    before, broken, after = read(tmp_path / name, good + line + b"\n" + good)
    assert fields_of([before, after]) == [ROWS[0], ROWS[0]]
    assert isinstance(broken, QuarantinedRow)
    assert (broken.row, broken.reason, broken.id) == (f"{tmp_path / name}:2", reason, None)
    assert detail in broken.detail


def test_a_line_of_text_that_is_not_utf8(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", b"one\n\xffwo\n")[1:] == [
        QuarantinedRow(f"{tmp_path}/a.txt:2", "not_utf8", "byte 0xff at 0")
    ]


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("only one", "1 values for the header's 2 columns"),
        ("one,two,three", "3 values for the header's 2 columns"),
        ('"one"x,two', "expected after"),
    ],
)
def test_a_broken_csv_row_is_quarantined_alone(tmp_path: Path, line: str, detail: str) -> None:
    rows = read(tmp_path / "a.csv", f"question,answer\n1,2\n{line}\n3,4\n".encode())
    assert fields_of([rows[0], rows[2]]) == [{"question": "1", "answer": "2"}, {"question": "3", "answer": "4"}]
    assert isinstance(rows[1], QuarantinedRow)
    assert (rows[1].row, rows[1].reason) == (f"{tmp_path}/a.csv:3", "not_csv")
    assert detail in rows[1].detail


def test_a_csv_quote_that_never_closes_tells_how_many_lines_it_took(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", b'question,answer\n1,2\n"open,3\n4,5\n')
    assert rows[1:] == [QuarantinedRow(f"{tmp_path}/a.csv:3", "not_csv", "lines 3 to 4: unexpected end of data")]


def test_csv_headers(tmp_path: Path) -> None:
    assert fields_of(read(tmp_path / "a.csv", b",text\n0,x\n")) == [{"column_0": "0", "text": "x"}]
    with pytest.raises(SourceError, match="names a column twice: a, b, a"):
        read(tmp_path / "b.csv", b"a,b,a\n1,2,3\n")


def test_parquet_text_that_is_not_utf8_costs_its_row_alone(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff", b"fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    rows = list(read_rows(tmp_path / "a.parquet"))
    assert fields_of([rows[0], rows[2]]) == [{"text": "good"}, {"text": "fine"}]
    assert rows[1] == QuarantinedRow(f"{tmp_path}/a.parquet:2", "not_utf8", "byte 0xff at 0")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", as_parquet(ROWS)[:-20]),
        ("a.parquet", b""),
        ("a.json", b'{"data": [1, 2'),
        ("a.json", b"question,answer"),
        ("a.json", json.dumps(ROWS).encode()[:-4]),
        ("a.jsonl.gz", gzip.compress(as_json_lines(ROWS * 100))[:-30]),
        ("a.jsonl.gz", b"not gzip"),
    ],
)
def test_a_file_that_is_broken_as_a_whole_is_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=name) as caught:
        list(read_rows(path))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8_stay_in_their_row(tmp_path: Path) -> None:
    """The row check of tasks.source.rows quarantines a lone surrogate."""
    rows = fields_of(read(tmp_path / "a.json", b'[{"text": "\xff"}, {"text": "fine"}]'))
    assert rows == [{"text": "\udcff"}, {"text": "fine"}]


@pytest.mark.parametrize(
    ("name", "num_rows", "num_chars"),
    [("a.jsonl", 20_000, 1000), ("a.json", 5000, 4000), ("a.csv", 5000, 4000), ("a.parquet", 5000, 4000)],
)
def test_a_large_file_is_read_in_bounded_memory(tmp_path: Path, name: str, num_rows: int, num_chars: int) -> None:
    """Reading over 20 MB of rows holds one chunk: under 8 MB of Python's memory."""
    rows = ({"question": f"{i} {'x' * num_chars}", "answer": "2"} for i in range(num_rows))
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path, compression="none", use_dictionary=False)
    elif name == "a.csv":
        path.write_text("question,answer\n" + "".join(f"{row['question']},2\n" for row in rows))
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if name == "a.jsonl" else f"[{','.join(lines)}]")
        del lines
    assert path.stat().st_size > 20e6
    tracemalloc.start()
    try:
        num_read = sum(1 for _ in read_rows(path))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert num_read == num_rows
    assert peak_bytes < 8e6


def test_format_of() -> None:
    names = ["a.JSONL.gz", "a.b.csv", "a.gz", "README.md", "a"]
    assert [format_of(Path(name)) for name in names] == ["jsonl", "csv", None, None, None]
