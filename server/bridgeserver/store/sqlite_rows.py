"""Reading a SQLite database in a worker, through `sqlite3`."""

import sqlite3
from pathlib import Path
from typing import Any

from bridgeserver.errors import StoreError

BUSY_TIMEOUT_S = 0.25
"""Readers do not wait for the writer in SQLite's WAL mode; this is for the rare moments of recovery."""


class SqliteRows:
    """Rows of the file at *path*, which may be there later than this object."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let go of the database."""
        if self._connection is not None:
            self._connection.close()

    def all(self, sql: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        """Return the rows of a statement; raises StoreError."""
        # All rows at once: a statement left half read would keep its snapshot, and the log from shrinking.
        try:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection.execute(sql.replace("$", "?"), parameters).fetchall()
        except sqlite3.Error as exc:
            raise StoreError(f"the database {self._path} cannot be read: {exc}") from exc

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
