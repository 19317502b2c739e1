"""Tests of the occurrence counter: exact counts in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampling.errors import OutputError
from tasks.source.seen import Seen

KEYS = st.lists(st.binary(max_size=2) | st.text(max_size=2))


@given(KEYS)
def test_add_returns_how_often_a_key_came_before(keys: list[bytes | str]) -> None:
    before: Counter[bytes | str] = Counter()
    with Seen() as seen:
        for key in keys:
            assert seen.add(key) == before[key]
            before[key] += 1


def test_two_counters_are_independent() -> None:
    with Seen() as first, Seen() as second:
        assert [first.add(b"a"), first.add(b"a"), second.add(b"a")] == [0, 1, 0]


def test_memory_does_not_grow_with_the_keys() -> None:
    """50,000 keys of 1 KB, 50 MB, with a cache of 8 MB, in a process of its own."""
    code = (
        "import resource\n"
        "from tasks.source import seen\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "seen.CACHE_KB, before = 8 << 10, peak()\n"
        "with seen.Seen() as counter:\n"
        "    assert not any(counter.add(i.to_bytes(1000, 'big')) for i in range(50_000))\n"
        "print(peak() - before >> 10)\n"
    )
    grown_mb = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    assert grown_mb < 20  # the cache of 8 MB and SQLite's own overhead


def test_a_full_disk_is_an_error() -> None:
    with Seen() as seen:
        seen._database.execute("PRAGMA max_page_count = 2")
        with pytest.raises(OutputError, match=r"cannot grow .* SQLITE_TMPDIR"):
            any(seen.add(i.to_bytes(16, "big")) for i in range(10_000))
