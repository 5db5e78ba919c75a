"""What a worker process reads from the store: plain SQL through `sqlite3`, and nothing heavier."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bridgeserver.errors import StoreError

BUSY_TIMEOUT_S = 0.25
"""Readers do not wait for the writer in SQLite's WAL mode; this is for the rare moments of recovery."""


class KeyRow(NamedTuple):
    """A gateway key and its owner; `active` unless the key is revoked or the user disabled."""

    key_id: str
    user_id: str
    user_name: str
    secret_hash: bytes
    is_admin: bool
    active: bool


class SealedToken(NamedTuple):
    """A user's own token for an MCP server, as it is stored."""

    user_name: str
    server: str
    sealed: str


KEYS = (
    "SELECT keys.id, users.id, users.name, secret_hash, is_admin, active AND revoked_at IS NULL"
    " FROM keys JOIN users ON users.id = keys.user_id"
)


class Reader:
    """Reads the database at *path*, and can write nothing. One thread at a time may use it.

    Every method raises StoreError while the database cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let go of the database."""
        if self._connection is not None:
            self._connection.close()

    def find_key(self, key_id: str) -> KeyRow | None:
        """Return the key with that id."""
        row = self._first(f"{KEYS} WHERE keys.id = ?", key_id)
        return None if row is None else _key(*row)

    def revision(self) -> int:
        """Return a number that grows with every change of a key, a user or a user's token."""
        row = self._first("SELECT value FROM revisions WHERE name = 'keys_rev'")
        return row[0] if row else 0

    def changed_keys(self, since: int) -> list[KeyRow]:
        """Return the keys that changed after revision *since*, themselves or through their user."""
        return [_key(*row) for row in self._all(f"{KEYS} WHERE keys.revision > ?", since)]

    def user_tokens(self, user_id: str) -> list[SealedToken]:
        """Return a user's own tokens for MCP servers, by the name of the server."""
        rows = self._all(
            "SELECT users.name, server, sealed FROM mcp_tokens JOIN users ON users.id = mcp_tokens.user_id"
            " WHERE user_id = ? ORDER BY server",
            user_id,
        )
        return [SealedToken(*row) for row in rows]

    def find_object(self, provider_name: str, object_id: str) -> str | None:
        """Return the id of the user to whom a provider-side object belongs."""
        row = self._first(
            "SELECT user_id FROM provider_objects WHERE provider_name = ? AND object_id = ?",
            provider_name,
            object_id,
        )
        return row[0] if row else None

    def find_continuation(self, provider_name: str, first_id: str) -> str | None:
        """Return the id of the last of the turns that the gateway made one response of, by that of the first."""
        row = self._first(
            "SELECT last_id FROM continued_responses WHERE provider_name = ? AND first_id = ?", provider_name, first_id
        )
        return row[0] if row else None

    def _first(self, sql: str, *parameters: str) -> tuple[Any, ...] | None:
        rows = self._all(sql, *parameters)
        return rows[0] if rows else None

    def _all(self, sql: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        # All rows at once: a statement left half read would keep its snapshot, and the log from shrinking.
        with self._translating():
            if self._connection is None:  # it may be there later than this process
                self._connection = self._connect()
            return self._connection.execute(sql, parameters).fetchall()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )

    @contextmanager
    def _translating(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise StoreError(f"the database {self._path} cannot be read: {exc}") from exc


def _key(key_id: str, user_id: str, user_name: str, secret_hash: bytes, is_admin: int, active: int) -> KeyRow:
    return KeyRow(key_id, user_id, user_name, secret_hash, bool(is_admin), bool(active))
