"""Tests of the readers: every format, intact or broken."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tracemalloc
import uuid
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sampling.bounds import Bounds
from sampling.errors import SourceError
from tasks.source.readers import format_of, read_rows
from tasks.source.source_row import QuarantinedRow, SourceRow

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


BOUNDS = Bounds()
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}
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
    path.write_bytes(PACK.get(path.suffix, bytes)(content))
    return list(read_rows(path, BOUNDS))


def fields_of(rows: list[SourceRow | QuarantinedRow]) -> list[dict[str, Any]]:
    assert all(isinstance(row, SourceRow) for row in rows), rows
    return [row.fields for row in rows if isinstance(row, SourceRow)]


@pytest.mark.parametrize("suffix", ["", *PACK])
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
        (b"[" * 100_000, "too_deep", "recursion"),
        (b'{"a": 1} {"b": 2}', "not_json", "there is more behind the value's end, character 8"),
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
        ('"a\nb",two,three', "lines 3 to 4: 3 values for the header's 2 columns"),
    ],
)
def test_a_broken_csv_row_is_quarantined_alone(tmp_path: Path, line: str, detail: str) -> None:
    rows = read(tmp_path / "a.csv", f"question,answer\n1,2\n{line}\n3,4\n".encode())
    assert fields_of([rows[0], rows[2]]) == [{"question": "1", "answer": "2"}, {"question": "3", "answer": "4"}]
    assert isinstance(rows[1], QuarantinedRow)
    assert (rows[1].row, rows[1].reason) == (f"{tmp_path}/a.csv:3", "not_csv")
    assert detail in rows[1].detail


@pytest.mark.parametrize(
    ("lines", "detail"),
    [
        (['"open,3', "4,5", "6,7"], "lines 3 to 5: the quotes are not those of CSV: unexpected end of data"),
        (['"one"x,two', "4,5"], "line 3: .* expected after"),
        ([r'"She said \"stop\" at the sign,', 'then 3, and 4 more.",7', "4,5"], "line 3: .* expected after"),
        (['"open,3', '"4",5'], "lines 3 to 4: .* expected after"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_broken_quotes_refuse_the_file_with_the_lines(tmp_path: Path, name: str, lines: list[str], detail: str) -> None:
    """Behind them nobody knows which line is a row: a part of one would be asked as another."""
    content = "\n".join(["question,answer", "1,2", *lines])
    with pytest.raises(SourceError, match=rf"{name}, {detail}.*a quote inside a quoted field is written twice"):
        read(tmp_path / name, (content.replace(",", "\t") if name == "a.tsv" else content).encode())


def test_two_columns_of_one_name_are_an_error(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="names a column twice: text, text; rename one"):
        list(read_rows(tmp_path / "a.parquet", BOUNDS))


FAR = 10**17 * 3  # microseconds: the year 11476
KEY = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array([0, FAR], pa.timestamp("us")), [datetime(1970, 1, 1), "11476-08-15 05:20:00.000000"]),
        (pa.array([[0], [0, FAR]], pa.list_(pa.timestamp("us"))), [[datetime(1970, 1, 1)], [
            "1970-01-01 00:00:00.000000", "11476-08-15 05:20:00.000000"]]),
        (pa.array([5_000_000], pa.date32()), ["15659-07-15"]),
        (pa.array([10**15], pa.duration("s")), ["1000000000000000"]),
        (pa.array([1], pa.timestamp("ms", tz="No/Where")), [1]),
        (pa.array([KEY.bytes, None], pa.uuid()), [str(KEY), None]),
        (pa.array([Decimal("7.50")]), [Decimal("7.50")]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())), [[{"key": "k", "value": 1}]]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_values_of_arrow_become_pythons_or_text(
    tmp_path: Path, suffix: str, column: pa.Array, values: list[Any]
) -> None:
    path, table = tmp_path / f"a.{suffix}", pa.table({"value": column})
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    assert fields_of(list(read_rows(path, BOUNDS))) == [{"value": value} for value in values]


def test_csv_headers(tmp_path: Path) -> None:
    assert fields_of(read(tmp_path / "a.csv", b",text\n0,x\n")) == [{"column_0": "0", "text": "x"}]
    with pytest.raises(SourceError, match="names a column twice: a, b, a"):
        read(tmp_path / "b.csv", b"a,b,a\n1,2,3\n")


def test_parquet_text_that_is_not_utf8_costs_its_row_alone(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff", b"fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    rows = list(read_rows(tmp_path / "a.parquet", BOUNDS))
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
        list(read_rows(path, BOUNDS))
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
        num_read = sum(1 for _ in read_rows(path, BOUNDS))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert num_read == num_rows
    assert peak_bytes < 8e6


def test_format_of() -> None:
    names = ["a.JSONL.gz", "a.b.csv", "a.gz", "README.md", "a"]
    assert [format_of(Path(name)) for name in names] == ["jsonl", "csv", None, None, None]
