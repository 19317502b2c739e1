"""How often each key came, counted on the disk."""

from __future__ import annotations

import sqlite3
from types import TracebackType
from typing import Self

from sampling.errors import OutputError

CACHE_KB = 64 << 10


class Seen:
    """Counts keys in memory that does not grow with their number; used by one thread at a time.

    A Python set takes 100 bytes a key: 1 GB for 10,000,000 rows. This takes `CACHE_KB` with some 30 bytes a key in a
    temporary file of SQLite's, at 5 to 8 µs a key.
    """

    def __init__(self) -> None:
        """Nothing is seen. The file has no name, and is gone with the connection or the process."""
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(
            f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{CACHE_KB};"
            "CREATE TABLE seen (key PRIMARY KEY, num INTEGER) WITHOUT ROWID; BEGIN"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add(self, key: bytes | str) -> int:
        """Take a key; how often it had come before. Raises OutputError when the disk is full."""
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
