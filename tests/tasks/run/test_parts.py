"""Tests of parts: committed rows are there after any crash, once; damage is noticed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from sampling.record import to_record_table
from tasks.run.parts import COMMIT_EVERY_S, PartWriter, read_parts, sum_totals
from tests.full_disk import FULL, full_disk
from tests.tasks.outputs import make_failure, make_output


def write(folder: Path, *rows: str, attempt: str = "a", tokens: float = 5) -> Path:
    """Write one part of these rows."""
    before = set(folder.iterdir())
    writer = PartWriter(folder, attempt)
    for row in rows:
        writer.add(make_failure(row) if row.startswith("bad") else make_output(row), {"num_tokens": tokens})
    writer.close()
    (part,) = set(folder.iterdir()) - before
    return part


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    outputs = [make_output("r1"), make_output("r2", 1, num_tokens=0), make_output("r2", 0)]
    writer = PartWriter(tmp_path, "a")
    for output in outputs:
        writer.add(output, {})
        writer.flush()  # a part each
    writer.close()
    parts = read_parts(tmp_path)
    assert parts.table.equals(to_record_table(outputs))
    assert parts.done() == {("r1", 0), ("r2", 1), ("r2", 0)}
    assert (parts.num_attempts, parts.num_set_aside, parts.num_duplicates) == (1, 0, 0)


def test_rows_are_committed_in_groups_by_the_thread(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, "a")
    for i in range(20):
        writer.add(make_output(f"r{i}"), {})
    deadline = time.monotonic() + 60 * COMMIT_EVERY_S
    while len(read_parts(tmp_path).done()) < 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(read_parts(tmp_path).done()) == 20
    assert len(list(tmp_path.iterdir())) <= 2
    writer.close()


def test_failures_are_durable_but_a_finished_row_wins(tmp_path: Path) -> None:
    write(tmp_path, "r1", "bad")
    parts = read_parts(tmp_path)
    assert parts.done() == {("r1", 0), ("bad", 0)}
    assert [(f.id, f.reason, f.detail) for f in parts.failures] == [
        ("bad", "prompt_too_long", "row bad has 99 tokens; 64 fit")
    ]
    assert len(parts.table) == 1


def test_totals_of_attempts_add_up(tmp_path: Path) -> None:
    write(tmp_path, "r1", attempt="a", tokens=5)
    write(tmp_path, "r2", attempt="a", tokens=11)  # totals of an attempt are its own so far
    write(tmp_path, "r3", attempt="b", tokens=7)
    parts = read_parts(tmp_path)
    assert parts.totals == {"num_tokens": 18}
    assert parts.num_attempts == 2
    assert sum_totals([{"max_kl_error": 2.0, "total_s": 1.0}, {"max_kl_error": 1.0, "total_s": 2.0}]) == {
        "max_kl_error": 2.0,
        "total_s": 3.0,
    }


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "renamed"])
def test_a_damaged_part_is_set_aside_and_counted(tmp_path: Path, damage: str) -> None:
    kept, part = write(tmp_path, "r1"), write(tmp_path, "r2")
    data = bytearray(part.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1  # one bit
    part.write_bytes(bytes({"truncated": data[:-100], "emptied": bytearray()}.get(damage, data)))
    if damage == "renamed":
        part = part.rename(tmp_path / "somebody's.parquet")
    parts = read_parts(tmp_path)
    assert parts.done() == {("r1", 0)}
    assert parts.num_set_aside == 1
    assert sorted(tmp_path.iterdir()) == sorted([kept, part.with_suffix(".corrupt")])
    # Sampled again, it takes no other part's place.
    write(tmp_path, "r2")
    parts = read_parts(tmp_path)
    assert parts.done() == {("r1", 0), ("r2", 0)}
    assert (parts.num_set_aside, parts.num_duplicates) == (1, 0)


def test_a_row_that_is_there_twice_is_dropped_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "r1", "r2")
    write(tmp_path, "r2", "r3", attempt="b")
    parts = read_parts(tmp_path)
    assert parts.table.equals(to_record_table([make_output(row) for row in ("r1", "r2", "r3")]))
    assert parts.num_duplicates == 1


def test_a_half_written_file_is_no_part(tmp_path: Path) -> None:
    write(tmp_path, "r1")
    (tmp_path / ".writing").write_bytes(b"PAR1 half")
    assert read_parts(tmp_path).done() == {("r1", 0)}
    write(tmp_path, "r2")
    assert read_parts(tmp_path).done() == {("r1", 0), ("r2", 0)}
    assert not (tmp_path / ".writing").exists()


def test_a_full_disk_reaches_the_thread_that_samples(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, "a")
    with full_disk():
        writer.add(make_output("r1"), {})
        with pytest.raises(OSError, match=FULL):
            writer.close()
    assert read_parts(tmp_path).table.num_rows == 0


def test_a_report_that_fails_reaches_the_thread_that_samples(tmp_path: Path) -> None:
    """Its thread died in silence: the rows after it waited for the shard's end, and a crash lost them."""

    def fail() -> None:
        raise ValueError("no totals")

    writer = PartWriter(tmp_path, "a", on_commit=fail)
    writer._thread.join(60 * COMMIT_EVERY_S)
    with pytest.raises(ValueError, match="no totals"):
        writer.add(make_output("r1"), {})
    with pytest.raises(ValueError, match="no totals"):
        writer.close()


def test_every_row_that_a_commit_reported_outlives_kill_9(tmp_path: Path) -> None:
    """A process says how many rows are committed, then is killed in the midst of committing more."""
    code = f"""
from pathlib import Path
from tasks.run.parts import PartWriter
from tests.tasks.outputs import make_output
writer = PartWriter(Path({str(tmp_path)!r}), "a")
for i in range(100_000):
    writer.add(make_output(f"r{{i}}"), {{}})
    writer.flush()
    print(i, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(25):
        last = int(process.stdout.readline())
    process.kill()
    last = max([last, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
    process.wait()
    parts = read_parts(tmp_path)
    assert {row for row, _ in parts.done()} >= {f"r{i}" for i in range(last + 1)}
    assert (parts.num_set_aside, parts.num_duplicates) == (0, 0)


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    parts = read_parts(tmp_path)
    assert parts.table.num_rows == 0
    assert parts.done() == set()
    assert isinstance(parts.table, pa.Table)
