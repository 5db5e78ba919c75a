"""One database: how it is found, opened and upgraded, and every operation in a transaction of its own."""

import os
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, PoolProxiedConnection, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from bridgeserver.errors import StoreError, StoreUnavailable
from bridgeserver.records import AnyRecord
from bridgeserver.sealing import Vault
from bridgeserver.secret import Secret
from bridgeserver.store import accounts, providers, queries, revisions, shipping, upgrades, usertokens
from bridgeserver.store.accounts import Key, User
from bridgeserver.store.queries import PAGE_ROWS, End, Record
from bridgeserver.store.stored import LoadedProviders, ProviderChanges, ProviderFields, StoredProvider, UserToken

PREFIX = "sqlite:///"
BUSY_TIMEOUT_MS = 5000
CHECKPOINT_PAGES = 4000
"""When the write-ahead log goes into the database, at 16 MB. The pages at the ends of the indexes change with every
batch of records; with SQLite's 1000 they are copied more often, which costs 4 µs a request."""


def open_store(url: str, *, is_durable: bool = False) -> "Store":
    """Open the database that *url* names, and create an empty one if there is none; `upgrade` fills it.

    With *is_durable* what was committed outlives a power cut, at the price of one sync a transaction. Without,
    it outlives a crash of this process. Raises StoreError.
    """
    if not url.startswith(PREFIX) or url == PREFIX:
        scheme = url.partition(":")[0]
        raise StoreError(f"store.url: found the scheme {scheme!r}, expected {PREFIX}FILE: this version has SQLite only")
    path = Path(url.removeprefix(PREFIX)).absolute()
    _create(path)
    return Store(path, is_durable=is_durable)


class Store:
    """Users, keys and records; any thread may use it. Every method raises StoreError if the database fails."""

    def __init__(self, path: Path, *, is_durable: bool) -> None:
        self.path = path
        self._engine = open_engine(path, "FULL" if is_durable else "NORMAL")
        self._writing_engine = self._engine.execution_options(begin="BEGIN IMMEDIATE")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def upgrade(self) -> None:
        """Bring the schema to this version; raises StoreError if a newer one has made it."""
        if not upgrades.is_current(self.path):
            with self._writing() as connection:
                upgrades.upgrade(connection)

    def apply(self, records: Sequence[AnyRecord]) -> int:
        """Store *records*, all or none; return how many rows that added or ended. Again, it changes nothing.

        The first end of an interception wins. Its end must not come in an earlier call than itself: a worker's
        journal is in order, so that cannot happen.
        """
        with self._writing() as connection:
            return shipping.apply(connection, records)

    def interrupt(self, worker: str, ended_at: int) -> int:
        """End every open interception of a dead worker, none before it began; return how many those were."""
        with self._writing() as connection:
            return shipping.interrupt(connection, worker, ended_at)

    def open_workers(self) -> list[str]:
        """Return the workers that have open interceptions."""
        with self._reading() as connection:
            return shipping.open_workers(connection)

    def records(
        self, *, limit: int | None = None, after: str | None = None, user: str | None = None
    ) -> Iterator[Record]:
        """Yield interceptions as `bridgecore records --json` shows them, by the time of their beginning.

        At most *limit*, only those after the one with the id *after*, only those of the user with that name.
        """
        place = None
        if after is not None:
            with self._reading() as connection:
                place = queries.start_of(connection, after)
        remaining = float("inf") if limit is None else limit
        while remaining > 0:
            size = int(min(PAGE_ROWS, remaining))
            with self._reading() as connection:
                page = queries.started_after(connection, place, size, user)
            yield from (record for _, record in page)
            if len(page) < size:
                return
            place = page[-1][0]
            remaining -= size

    def end_cursor(self) -> End:
        """Return the cursor for ends that will be stored from now on."""
        with self._reading() as connection:
            return queries.last_end(connection)

    def ended_after(self, cursor: End) -> Iterator[tuple[End, Record]]:
        """Yield what has ended since *cursor*, each with the cursor to go on from.

        Ends come in the order in which they were stored, those that were stored together by `(ended_at, id)`.
        So none is missed, however long after its end a record was shipped.
        """
        while True:
            with self._reading() as connection:
                page = queries.ended_after(connection, cursor, PAGE_ROWS)
            yield from page
            if len(page) < PAGE_ROWS:
                return
            cursor = page[-1][0]

    def create_key(self, user_name: str, label: str, *, is_admin: bool, actor: str) -> str:
        """Make a key, and its user if there is none of that name; return the token, which is stored nowhere.

        Raises StoreError for a disabled user, and for names that are too long or not printable.
        """
        with self._writing() as connection:
            return accounts.create_key(connection, user_name, label, is_admin=is_admin, actor=actor)

    def list_keys(self) -> list[Key]:
        """Return all keys, revoked ones too, in the order of their making."""
        with self._reading() as connection:
            return accounts.list_keys(connection)

    def revoke_key(self, key_id: str, actor: str) -> None:
        """Refuse a key from now on; raises StoreError if there is no such key."""
        with self._writing() as connection:
            accounts.revoke_key(connection, key_id, actor)

    def list_users(self) -> list[User]:
        """Return all users, disabled ones too, by name."""
        with self._reading() as connection:
            return accounts.list_users(connection)

    def disable_user(self, name: str, actor: str) -> None:
        """Refuse all keys of a user from now on; raises StoreError if there is no such user."""
        with self._writing() as connection:
            accounts.disable_user(connection, name, actor)

    def list_providers(self) -> list[StoredProvider]:
        """Return the stored providers by name, disabled ones too; nothing is opened for it."""
        with self._reading() as connection:
            return providers.find_all(connection)

    def get_provider(self, id_or_name: str) -> StoredProvider:
        """Return one stored provider; raises NotFound."""
        with self._reading() as connection:
            return providers.find(connection, id_or_name)

    def create_provider(self, vault: Vault, fields: ProviderFields, actor: str) -> StoredProvider:
        """Store a provider; raises InvalidMembers with all mistakes, Conflict, or SealError."""
        with self._writing() as connection:
            return providers.create(connection, vault, fields, actor)

    def update_provider(self, vault: Vault, id_or_name: str, changes: ProviderChanges, actor: str) -> StoredProvider:
        """Change a stored provider; raises NotFound, InvalidMembers with all mistakes, or SealError."""
        with self._writing() as connection:
            return providers.change(connection, vault, id_or_name, changes, actor)

    def delete_provider(self, id_or_name: str, actor: str) -> None:
        """Delete a stored provider and its secrets; its name is free again. Raises NotFound."""
        with self._writing() as connection:
            providers.remove(connection, id_or_name, actor)

    def enable_provider(self, name: str, *, enabled: bool, actor: str, file_names: Collection[str]) -> None:
        """Switch a provider: a stored one itself, one of the file by an override. Raises NotFound."""
        with self._writing() as connection:
            providers.enable(connection, name, enabled=enabled, actor=actor, file_names=file_names)

    def override_provider(self, name: str, *, enabled: bool, actor: str) -> None:
        """Switch the file's provider of that name until `reset_provider`."""
        with self._writing() as connection:
            providers.override(connection, name, enabled=enabled, actor=actor)

    def reset_provider(self, name: str, actor: str) -> None:
        """End an override; raises NotFound if there is none."""
        with self._writing() as connection:
            providers.reset(connection, name, actor)

    def provider_overrides(self) -> dict[str, bool]:
        """Return `enabled` of the file's providers that were switched, by name."""
        with self._reading() as connection:
            return providers.overrides(connection)

    def config_revision(self) -> int:
        """Return a number that grows with every change of a stored provider or an override."""
        with self._reading() as connection:
            return revisions.current(connection, revisions.CONFIG)

    def load_providers(self, vault: Vault) -> LoadedProviders:
        """Return the stored providers with their secrets, all as of one revision."""
        with self._reading() as connection:
            return providers.load(connection, vault)

    def set_user_token(self, vault: Vault, user: str, server: str, token: Secret, actor: str) -> UserToken:
        """Store a user's own token for an MCP server, in place of the one that is there.

        Raises NotFound without such a user, Conflict if it is disabled, InvalidMembers for what is no token, SealError.
        """
        with self._writing() as connection:
            return usertokens.put(connection, vault, user, server, token, actor)

    def remove_user_token(self, user: str, server: str, actor: str) -> None:
        """Delete a user's own token for an MCP server; raises NotFound."""
        with self._writing() as connection:
            usertokens.remove(connection, user, server, actor)

    def list_user_tokens(self, user: str | None = None) -> list[UserToken]:
        """Return which tokens there are, without themselves, by user and server. Raises NotFound for that user."""
        with self._reading() as connection:
            return usertokens.find_all(connection, user)

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._transaction(self._engine)

    def _writing(self) -> AbstractContextManager[Connection]:
        return self._transaction(self._writing_engine)

    @contextmanager
    def _transaction(self, engine: Engine) -> Generator[Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as exc:
            # Only the driver's own words: SQLAlchemy's text goes on with the statement.
            reason = exc.orig if isinstance(exc, DBAPIError) else exc
            kind = StoreUnavailable if isinstance(exc, OperationalError) else StoreError
            raise kind(
                f"the database {self.path} failed ({reason}): "
                "check that its folder is writable, that the disk has room, and that it was upgraded",
            ) from exc


def _create(path: Path) -> None:
    """Create an empty file that only its owner can read, before SQLite makes one that others can.

    An existing file is not opened: closing it again would drop the locks that SQLite holds on it.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as exc:
        raise StoreError(
            f"the database {path} cannot be created ({exc.strerror}): "
            f"expected {path.parent} to be a folder that this user can write; create it, or change store.url",
        ) from exc


def open_engine(path: Path, synchronous: str) -> Engine:
    """Return an engine whose connections are set up for the store."""
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, hide_parameters=True, connect_args={"isolation_level": None})

    # The driver would begin a transaction only before the first change, so that reads before it see another
    # state, and a reader that turns writer may fail at once. So transactions are begun in so many words.
    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: PoolProxiedConnection) -> None:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute("PRAGMA foreign_keys = ON")

    return engine
