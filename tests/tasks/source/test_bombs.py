"""Tests of small files that stand for gigabytes: each is read, or refused, in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import subprocess
import sys
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sampling.bounds import Bounds
from sampling.errors import SourceError
from tasks.config import SourceConfig
from tasks.source.readers import read_rows
from tasks.source.source import open_source
from tasks.source.source_row import QuarantinedRow, SourceRow

MIB = 1 << 20
MOST_MIB = 600  # above the base, of this process and the one that decodes together
ROW, TEXT = b'{"question":"q","answer":"1"}\n', b"x" * MIB
EMOJI = "\U0001f600".encode()

READ = """
import resource, sys
from pathlib import Path
import pyarrow.compute
from sampling.bounds import Bounds
from tasks.source.columnar import end_idle
from tasks.config import SourceConfig
from tasks.source.readers import read_rows
from tasks.source.source import open_source

def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) >> 10

base, found = peak(), {}
try:
    for row in read_rows(Path(sys.argv[1]), Bounds(unpacked_ratio=1 << 40)):  # all the others
        key = "good" if hasattr(row, "fields") else f"{row.reason}: {row.detail}"
        found[key] = found.get(key, 0) + 1
except Exception as error:
    found[f"{type(error).__name__}: {error}"] = 1
end_idle()
print([peak() - base + (resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10), found])
"""


def packed(*parts: tuple[bytes, int]) -> bytes:
    """A gzip file of repeated chunks: one member each, compressed once."""
    return b"".join(gzip.compress(chunk, 1) * times for chunk, times in parts)


def zstd(*parts: tuple[bytes, int]) -> bytes:
    return b"".join(pa.compress(chunk, codec="zstd", asbytes=True) * times for chunk, times in parts)


def parquet(question: pa.Array, answer: pa.Array | None = None, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"question": question, "answer": ["1"] * len(question) if answer is None else answer})
    settings = {"compression": "zstd", "dictionary_pagesize_limit": 1 << 30, "write_statistics": False} | options
    pq.write_table(table, sink, **settings)
    return bytes(sink.getvalue())


def repeated(value: str | bytes, times: int) -> pa.Array:
    kind = pa.large_string() if isinstance(value, str) else pa.large_binary()
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array([value], kind))


def arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def long_list() -> bytes:
    zeros = pa.array(memoryview(bytes(100 * MIB)), pa.uint8())
    return parquet(pa.array(["q", "q"]), pa.LargeListArray.from_arrays(pa.array([0, 1, len(zeros)], pa.int64()), zeros))


def nested() -> bytes:
    text = repeated("x" * MIB, 512).dictionary_decode()
    return parquet(pa.StructArray.from_arrays([pa.StructArray.from_arrays([text], ["b"])], ["a"]))


LINE = [(ROW, 1), (b'{"question":"', 1), (TEXT, 700), (b'","answer":"1"}\n' + ROW, 1)]
ELEMENT = [(b'[{"question":"q","answer":"1"},{"question":"', 1), (TEXT, 700), (b'","answer":"1"}]', 1)]
CSV = b"question,answer\n1,2\n"
DICTIONARY = repeated("x" * 8 * MIB, 100)
BOMBS: dict[str, tuple[Callable[[], bytes], dict[str, int]]] = {  # a file's content, and what reading it gives
    "line.jsonl.gz": (lambda: packed(*LINE), {"good": 2, "too_large: the line is longer than bounds.line_bytes": 1}),
    "line.jsonl.zst": (lambda: zstd(*LINE), {"good": 2, "too_large: the line is longer than bounds.line_bytes": 1}),
    "line.jsonl.xz": (lambda: lzma.compress(ROW, preset=0) + lzma.compress(TEXT, preset=0) * 700, {
        "good": 1, "too_large: the line is longer than bounds.line_bytes": 1}),
    "line.jsonl.bz2": (lambda: bz2.compress(ROW) + bz2.compress(TEXT) * 200, {
        "good": 1, "too_large: the line is longer than bounds.line_bytes": 1}),
    "window.jsonl.xz": (lambda: lzma.compress(ROW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]), {
        "SourceError: ": 1}),
    "line.txt.gz": (lambda: packed(*LINE), {"good": 2, "too_large: the line is longer than bounds.line_bytes": 1}),
    "zeros.jsonl.gz": (lambda: packed((bytes(MIB), 700)), {"too_large: the line is longer": 1}),
    "lists.jsonl.gz": (lambda: packed((ROW + b'{"question":[', 1), (b"[]," * (10 * MIB), 1), (b"1]}\n" + ROW, 1)), {
        "good": 2, "too_large: its values take more than bounds.row_bytes (33554432)": 1}),
    "wide.jsonl.gz": (lambda: packed((b'{"question":"' + EMOJI, 1), (TEXT, 31), (b'"}\n' + ROW, 1)), {
        "good": 1, "too_large: 'question' holds 32505860 bytes, above bounds.cell_bytes (16777216)": 1}),
    "element.json.gz": (lambda: packed(*ELEMENT), {
        "good": 1, "SourceError: , line 1: a value is longer than bounds.line_bytes (33554432)": 1}),
    "wide.json.gz": (lambda: packed(ELEMENT[0], (EMOJI * MIB, 100)), {
        "good": 1, "SourceError: , line 1: a value is longer than bounds.line_bytes (33554432)": 1}),
    "lists.json.gz": (lambda: packed((b"[[", 1), (b"[]," * (10 * MIB), 2)), {
        "SourceError: , line 1: a value is longer than bounds.line_bytes": 1}),
    "object.json.gz": (lambda: packed((b'{"a":{}', 1), (b',"b":{"question":"q"}' * MIB, 10)), {
        "SourceError: , line 1: this is not JSON, or the file is cut off: an object names a key twice: 'b'": 1}),
    "unclosed.csv.gz": (lambda: packed((CSV + b'"' + EMOJI, 1), (b"x" * 1023 + b"\n", 1), (TEXT, 700)), {
        "good": 1, "SourceError: : the record that begins in line 3 takes more than bounds.line_bytes (33554432)": 1}),
    "fields.csv.gz": (lambda: packed((CSV + b'"a', 1), (b'\n","ab' * MIB, 20)), {
        "good": 1, "SourceError: : the record that begins in line 3 takes more than bounds.row_bytes (33554432)": 1}),
    "text.parquet": (lambda: parquet(DICTIONARY.dictionary_decode()), {"good": 100}),
    "category.parquet": (lambda: parquet(DICTIONARY), {"good": 100}),
    "binary.parquet": (lambda: parquet(repeated(TEXT * 8, 100).dictionary_decode()), {"good": 100}),
    "cell.parquet": (lambda: parquet(repeated("x" * 60 * MIB, 4).dictionary_decode()), {
        "too_large: 'question' holds 6291": 4}),
    "nested.parquet": (nested, {"good": 512}),
    "list.parquet": (long_list, {
        "good": 1, "SourceError: : row 2 cannot be decoded in bounds.batch_bytes (134217728)": 1}),
    "page.parquet": (lambda: parquet(pa.array(["x" * 500 * MIB]), use_dictionary=False), {
        "SourceError: : row 1 cannot be decoded in bounds.batch_bytes (134217728)": 1}),
    "dictionary.arrow": (lambda: arrow(pa.table({"question": DICTIONARY})), {"good": 100}),
    "buffer.arrow": (lambda: arrow(pa.table({"question": ["x" * 500 * MIB]})), {
        "SourceError: : row 1 cannot be decoded in bounds.batch_bytes (134217728)": 1}),
}  # fmt: skip
SLOW = {"lists.json.gz", "object.json.gz", "text.parquet", "category.parquet", "binary.parquet", "list.parquet",
        "dictionary.arrow", "buffer.arrow", "line.jsonl.xz"}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in BOMBS])
def test_a_bomb_takes_bounded_memory(tmp_path: Path, name: str) -> None:
    make, expected = BOMBS[name]
    path = tmp_path / name
    path.write_bytes(make())
    assert path.stat().st_size < 32 * MIB
    done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True, timeout=120)
    peak, found = literal_eval(done.stdout.replace(str(path), ""))
    assert {next((start for start in expected if key.startswith(start)), key): num for key, num in found.items()} == (
        expected
    )
    assert peak <= MOST_MIB


LONG = b"x" * (256 * 1024 - 1) + b"\n"


def run_lengths(num_rows: int) -> bytes:
    columns = [
        pa.RunEndEncodedArray.from_arrays(pa.array([num_rows], pa.int32()), pa.array([text])) for text in ("q", "1")
    ]
    batch = pa.RecordBatch.from_arrays(columns, ["question", "answer"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        for _ in range(10):
            writer.write_batch(batch)
    return bytes(sink.getvalue())


ENDLESS: dict[str, Callable[[], bytes]] = {
    "lines.txt.zst": lambda: zstd((LONG * 400, 1)),
    "lines.json.bz2": lambda: bz2.compress(b'{"text":"' + LONG[:-1] + b'"}\n') * 400,
    "zeros.jsonl.bz2": lambda: bz2.compress(bytes(16 * MIB)) * 8,
    "lines.csv.xz": lambda: lzma.compress(b"question\n" + LONG * 400, preset=0),
    "zeros.parquet.zst": lambda: zstd((bytes(100 * MIB), 1)),
    "rows.arrow": lambda: run_lengths(2**31 - 1),
    "rows.parquet": lambda: parquet(repeated("q", 2_000_000), repeated("1", 2_000_000)),
    "texts.parquet": lambda: parquet(repeated("x" * 8 * MIB, 10)),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_file_that_unpacks_without_end_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(ENDLESS[name]())
    message = rf"{name}, a file of \d+ bytes, unpacks to \d+ or more, above bounds\.unpacked_"
    with pytest.raises(
        SourceError, match=message + (r"bytes \(4294967296" if name == "rows.arrow" else r"ratio \(1000")
    ):
        list(read_rows(path, Bounds()))
    with pytest.raises(SourceError, match=message + r"bytes \(8388608\); raise the bound"):
        list(read_rows(path, Bounds(unpacked_bytes=8 * MIB)))


def test_a_short_file_of_equal_rows_is_read(tmp_path: Path) -> None:
    """Its ratio is 2,000 to 6,000: what is unpacked is little."""
    (tmp_path / "a.txt.zst").write_bytes(zstd((b"the same line\n" * 100_000, 1)))
    (tmp_path / "a.parquet").write_bytes(parquet(repeated("q", 100_000), repeated("1", 100_000)))
    for path in tmp_path.iterdir():
        assert sum(1 for _ in read_rows(path, Bounds())) == 100_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a.jsonl", "é" * 6),
        ("a.json", ["x"]),
        ("a.csv", "x" * 11),
        ("a.txt", "x" * 11),
        ("a.parquet", "x" * 500),
        ("a.parquet", ["x"] * 9),
    ],
)
def test_a_cell_above_the_bound_costs_its_row_alone(tmp_path: Path, name: str, value: Any) -> None:
    bounds = Bounds(cell_bytes=400 if name == "a.parquet" else 10)
    rows = [{"text": "good"}, {"text": value}, {"text": "fine"}]
    if name == "a.parquet":
        kind = pa.list_(pa.string()) if isinstance(value, list) else pa.string()
        texts = [row["text"] if kind == pa.string() else [*row["text"]] for row in rows]
        pq.write_table(pa.table({"text": pa.array(texts, kind)}), tmp_path / name)
    elif name.startswith("a.json"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    else:
        (tmp_path / name).write_text("text\n" * (name == "a.csv") + "".join(f"{row['text']}\n" for row in rows))
    first, bad, last = read_rows(tmp_path / name, bounds)
    assert isinstance(first, SourceRow)
    assert isinstance(last, SourceRow)
    assert isinstance(bad, QuarantinedRow)
    assert (bad.reason, bad.row) == ("too_large", f"{tmp_path / name}:{3 if name == 'a.csv' else 2}")
    assert re.fullmatch(rf"'text' holds \d+ bytes, above bounds\.cell_bytes \({bounds.cell_bytes}\)", bad.detail)


def test_many_small_cells_are_a_row_above_the_bound(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({f"column {i}": "xxxxx" for i in range(3)}) + '\n{"text": "good"}\n')
    bad, good = read_rows(tmp_path / "a.jsonl", Bounds(cell_bytes=10, row_bytes=10))
    assert bad == QuarantinedRow(
        f"{tmp_path}/a.jsonl:1", "too_large", "its fields hold 15 bytes, above bounds.row_bytes (10)"
    )
    assert isinstance(good, SourceRow)


def test_a_row_that_brings_too_many_columns_is_set_aside(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b", "x": 1, "y": 1}, {"text": "c", "z": 1}, {"x": 1}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = list(open_source(SourceConfig(path=str(tmp_path)), Bounds(columns=3)).rows())
    assert [row.fields for row in found if isinstance(row, SourceRow)] == [rows[0], rows[1], rows[3]]
    problem = "with its own the source has 4 columns, above bounds.columns (3)"
    assert found[2] == QuarantinedRow(f"{tmp_path}/a.jsonl:3", "too_many_columns", problem)
