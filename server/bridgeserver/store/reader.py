"""What a worker process reads from the store: a few statements of plain SQL, and no heavier package than the driver."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bridgeserver.config.databases import POSTGRESQL, SQLITE
from bridgeserver.store.sqlite_rows import SqliteRows


class Rows(Protocol):
    """One engine's way of reading rows; each method raises StoreError while the database cannot be read."""

    def all(self, sql: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        """Return the rows of a statement; its parameters are numbered from $1."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...


def open_rows(url: str) -> Rows:
    """Return the way to the database that *url* names; nothing is opened before it is used."""
    if url.startswith(POSTGRESQL):
        from bridgeserver.store.postgres_rows import PostgresRows  # asyncpg, where it is used

        return PostgresRows(url)
    return SqliteRows(Path(url.removeprefix(SQLITE)))


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
    """Reads the database that *url* names, and can write nothing. One thread at a time may use it.

    Every method raises StoreError while the database cannot be read.
    """

    def __init__(self, url: str) -> None:
        self._rows = open_rows(url)

    def close(self) -> None:
        """Let go of the database."""
        self._rows.close()

    def find_key(self, key_id: str) -> KeyRow | None:
        """Return the key with that id."""
        row = self._first(f"{KEYS} WHERE keys.id = $1", key_id)
        return None if row is None else _key(*row)

    def revision(self) -> int:
        """Return a number that grows with every change of a key, a user or a user's token."""
        row = self._first("SELECT value FROM revisions WHERE name = 'keys_rev'")
        return row[0] if row else 0

    def changed_keys(self, since: int) -> list[KeyRow]:
        """Return the keys that changed after revision *since*, themselves or through their user."""
        return [_key(*row) for row in self._rows.all(f"{KEYS} WHERE keys.revision > $1", since)]

    def user_tokens(self, user_id: str) -> list[SealedToken]:
        """Return a user's own tokens for MCP servers, by the name of the server."""
        rows = self._rows.all(
            "SELECT users.name, server, sealed FROM mcp_tokens JOIN users ON users.id = mcp_tokens.user_id"
            " WHERE user_id = $1 ORDER BY server",
            user_id,
        )
        return [SealedToken(*row) for row in rows]

    def find_object(self, provider_name: str, object_id: str) -> str | None:
        """Return the id of the user to whom a provider-side object belongs."""
        row = self._first(
            "SELECT user_id FROM provider_objects WHERE provider_name = $1 AND object_id = $2",
            provider_name,
            object_id,
        )
        return row[0] if row else None

    def find_continuation(self, provider_name: str, first_id: str) -> str | None:
        """Return the id of the last of the turns that the gateway made one response of, by that of the first."""
        row = self._first(
            "SELECT last_id FROM continued_responses WHERE provider_name = $1 AND first_id = $2",
            provider_name,
            first_id,
        )
        return row[0] if row else None

    def _first(self, sql: str, *parameters: str) -> tuple[Any, ...] | None:
        rows = self._rows.all(sql, *parameters)
        return rows[0] if rows else None


def _key(key_id: str, user_id: str, user_name: str, secret_hash: bytes, is_admin: int, active: int) -> KeyRow:
    return KeyRow(key_id, user_id, user_name, secret_hash, bool(is_admin), bool(active))
