"""A disk-backed counter of repeated keys."""

from __future__ import annotations

import sqlite3
from typing import Self

from sampling.errors import OutputError

CACHE_KB = 64 << 10


class Seen:
    """An occurrence counter whose memory does not grow with the number of keys; for one thread at a time.

    A Python set takes 100 bytes per key: 1 GB for 10,000,000 rows. This takes `CACHE_KB` of memory and some 30 bytes
    per key in a temporary SQLite file, at 5 to 8 µs per key.
    """

    def __init__(self) -> None:
        """Create an unnamed temporary database, which SQLite deletes when the connection or the process ends."""
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(
            f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{CACHE_KB};"
            "CREATE TABLE seen (key PRIMARY KEY, num INTEGER) WITHOUT ROWID; BEGIN"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, key: bytes | str) -> int:
        """Count a key; return how often it was added before. Raises OutputError if the disk is full."""
        try:
            if self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, 1)", (key,)).rowcount:
                return 0
            (num,) = self._database.execute("SELECT num FROM seen WHERE key = ?", (key,)).fetchone()
            self._database.execute("UPDATE seen SET num = num + 1 WHERE key = ?", (key,))
        except sqlite3.OperationalError as error:
            raise OutputError(
                f"the temporary file of the keys seen cannot grow ({error}): free space there, or set"
                " SQLITE_TMPDIR to a folder with 50 bytes a row to spare"
            ) from error
        return int(num)
