"""Fuzzing of what reads strangers' bytes: readers, adapters, manifests, metadata, replies, configurations.

Seeds are mutated for DUAL_SAMPLING_FUZZ_S seconds in all (600; `.ci/run`: 60). Whatever comes out is rows, or an error
of the project's own in one line; an input takes under 10 s. A failure names its generator's seed: it fails again.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.configuration import load_config
from sampling.bounds import Bounds
from sampling.errors import DualSamplingError
from sampling.served.refusals import TryError
from sampling.served.replies import read_logprobs, top_of
from tasks.run.dataset_metadata import FACTS, read_metadata
from tasks.source.formats import KNOWN_ADAPTERS
from tasks.source.readers import read_rows
from tasks.store.lease import _num_lost, _parsed
from tasks.store.manifest import MANIFEST, listed_files, read_manifest

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("DUAL_SAMPLING_FUZZ_S", "600"))
MAX_INPUT_S = 10.0  # on a busy machine; the slowest takes 0.1 s
TOKENS = [
    *(b"[", b"]", b"{", b"}", b'"', b"'", b",", b":", b"\\", b"\n", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\x1b["),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"[" * 2000, b'{"a":' * 500, b"\\ud800"),
    *(b"../../x", b"/etc/passwd", b"&a *a", b"!!python/object:os.system", b"{{ q }}", b"<script>", "\u202e".encode()),
]
ROWS: list[dict[str, Any]] = [
    {"question": "What is 2 + 2?", "answer": "It is 4.\n#### 4"},
    {"problem": "x", "solution": "\\boxed{4}", "answer": 4},
    {"instruction": "a", "input": "", "output": "b"},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "c"},
    {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
    {"question": "q", "choices": ["a", "b"], "answer": 1},
    {"question": "q", "context": "c", "answers": {"text": ["a"], "answer_start": [0]}},
    {"prompt": "p", "chosen": "a", "rejected": "b", "label": False, "tools": [{"type": "function"}]},
]
REPLY = {
    "choices": [{"logprobs": {"top_logprobs": [{"token_id:5": -0.1, "token_id:7": -2.5, "token_id:9": -9999.0}]}}],
    "usage": {"prompt_tokens": 3},
}
ENTRY = {"path": "data/a.parquet", "num_bytes": 4, "sha256": "0" * 64}
DOCUMENTS = [
    {"files": [ENTRY], "documents": [{**ENTRY, "path": "README.md"}], "run_id": "a", "config": {}},
    {"holder": "a", "pid": 1, "host": "h", "since": "2026", "beat": 3, "num_lost": 1},
    {"kl_symmetric": True, "theta_turn": {"before": "a", "after": "b"}, "eos_ids": [1], "theta_bos": None},
]


class Mutations:
    """A stream of mutated seeds."""

    def __init__(self, seeds: list[bytes], seed: int) -> None:
        self._seeds, self._rng = seeds, np.random.default_rng(seed)

    def next(self) -> bytes:
        """Return a seed after one to eight changes: bytes, cuts, repetitions, tokens, a piece of another seed."""
        data = self._any(self._seeds)
        for _ in range(self._below(8) + 1):
            i, j = sorted((self._below(len(data) + 1), self._below(len(data) + 1)))
            change = self._below(6)
            if change == 0:
                data = data[:i] + bytes([self._below(256)]) + data[i + 1 :]
            elif change == 1:
                data = data[:i] + data[j:]
            elif change == 2:
                data = data[:i] + data[i:j] * (1 + self._below(5)) + data[j:]
            elif change == 3:
                other = self._any(self._seeds)
                data = data[:i] + other[self._below(len(other) + 1) :]
            else:
                data = data[:i] + self._any(TOKENS) + data[i:]
        return data[: 1 << 20]

    def _below(self, most: int) -> int:
        return int(self._rng.integers(most))

    def _any(self, values: list[bytes]) -> bytes:
        return values[self._below(len(values))]


def in_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def in_parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def in_arrow(rows: list[dict[str, Any]]) -> bytes:
    table = pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


LINES = [in_lines(ROWS), in_lines(ROWS[:1]), b'{"question": "\xff", "answer": 1}\n\n[1]\n']
CSV = [b'question,answer\n"a, ""b""",c\nd,e\n', "question\tanswer\na\t\u00e9\n".encode(), b'a,b\r\n"c\nd",e\r\n']
SOURCES: dict[str, list[bytes]] = {
    "a.jsonl": LINES,
    "a.json": [json.dumps(ROWS).encode(), json.dumps({"data": ROWS}, indent=1).encode(), *LINES],
    "a.csv": CSV,
    "a.tsv": CSV,
    "a.txt": [b"one\ntwo\n\nthree", "\ufeffune".encode()],
    "a.jsonl.gz": [gzip.compress(LINES[0]), gzip.compress(LINES[1]) * 2],
    "a.jsonl.bz2": [bz2.compress(LINES[0])],
    "a.csv.xz": [lzma.compress(CSV[0])],
    "a.parquet": [in_parquet(ROWS[:1] * 5), in_parquet(ROWS[4:5]), in_parquet(ROWS[7:8])],
    "a.arrow": [in_arrow(ROWS[:1] * 5), in_arrow(ROWS[4:5])],
}


def read_source(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)
        for row in read_rows(folder / name, Bounds()):
            assert row

    return read


def convert(data: bytes, folder: Path) -> None:
    """Give whatever is JSON to every adapter, as a row."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    for row in value if isinstance(value, list) else [value]:
        for adapter in KNOWN_ADAPTERS:
            if isinstance(row, Mapping):
                try:
                    adapter.example(row)
                except DualSamplingError:  # this row's; the others go on
                    continue


def read_documents(data: bytes, folder: Path) -> None:
    assert _num_lost(data) >= 0 or _parsed(data)
    (folder / FACTS).write_bytes(data)
    assert read_metadata(folder).unknown
    (folder / MANIFEST).write_bytes(data)
    if (manifest := read_manifest(folder)) is not None:
        listed_files(manifest, "m")


def read_reply(data: bytes, folder: Path) -> None:
    try:
        reply = json.loads(data)
    except (ValueError, RecursionError):  # the transport's to refuse
        return
    top_of(*read_logprobs(reply, 10, 3), 2)


def read_configuration(data: bytes, folder: Path) -> None:
    (folder / "my.yaml").write_bytes(data)
    load_config(folder / "my.yaml")


BASE = (Path(__file__).parents[1] / "flows" / "configs" / "base.yaml").read_bytes()
SMALL = b"name: a\nsource: {path: x}\nmodels: {teacher: {model: a}, theta: {model: b}}\n"
TARGETS: dict[str, tuple[list[bytes], Callable[[bytes, Path], None]]] = {
    **{name: (seeds, read_source(name)) for name, seeds in SOURCES.items()},
    "adapters": ([json.dumps(row).encode() for row in ROWS] + [json.dumps(ROWS).encode()], convert),
    "documents": ([json.dumps(document).encode() for document in DOCUMENTS], read_documents),
    "replies": ([json.dumps(REPLY).encode()], read_reply),
    "configurations": ([SMALL, BASE, SMALL + b"mixture: {preset: balanced}\nsampling: {n: 2}\n"], read_configuration),
}


@pytest.mark.parametrize("target", TARGETS)
def test_whatever_comes_is_rows_or_an_error_in_one_line(target: str, tmp_path: Path) -> None:
    seeds, read = TARGETS[target]
    end = time.monotonic() + SECONDS / len(TARGETS)
    num = 0
    while time.monotonic() < end:
        data = Mutations(seeds, num).next() if num else seeds[0]
        start = time.monotonic()
        message = ""
        try:
            read(data, tmp_path)
        except (DualSamplingError, TryError) as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"seed {num} of {target}: {data[:2000]!r}") from error
        is_good = "\n" not in message and time.monotonic() - start < MAX_INPUT_S
        assert is_good, f"seed {num} of {target}: {data[:500]!r}: {message}"
        num += 1
    assert num > 1
