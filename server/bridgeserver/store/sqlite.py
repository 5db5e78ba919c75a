"""SQLite: one file, which its writers take in turns. How it is made, opened, and what its failures are called."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, PoolProxiedConnection, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from bridgeserver.config.databases import SQLITE
from bridgeserver.errors import StoreError, StoreUnavailable
from bridgeserver.store.migrations import HEAD

BUSY_TIMEOUT_MS = 5000
CHECKPOINT_PAGES = 4000
"""When the write-ahead log goes into the database, at 16 MB. The pages at the ends of the indexes change with every
batch of records; with SQLite's 1000 they are copied more often, which costs 4 µs a request."""

P = ParamSpec("P")
T = TypeVar("T")


class Sqlite:
    """A database in a file, which is made if there is none. Raises StoreError.

    With *is_durable* what was committed outlives a power cut, at the price of one sync a transaction. Without,
    it outlives a crash of this process.
    """

    def __init__(self, path: Path, *, is_durable: bool) -> None:
        _create(path)
        self.path = path
        self.url = f"{SQLITE}{path}"
        self._engine = open_engine(path, "FULL" if is_durable else "NORMAL")
        self._writing = self._engine.execution_options(begin="BEGIN IMMEDIATE")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *work* finds in a transaction of its own."""
        return self._run(self._engine, work, *args, **kwargs)

    def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *work* returns, and commit what it did; nothing is kept of it if it raises."""
        return self._run(self._writing, work, *args, **kwargs)

    def migrate(self, work: Callable[[Connection], T]) -> T:
        """Do the same for a change of the schema."""
        return self.write(work)

    def revision(self) -> str | None:
        """Return the revision of the schema, None where there is none; raises StoreError if it is not a database.

        It asks SQLite directly, so that a start with nothing to do need not import Alembic.
        """
        path = self.path
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if table else None
        except sqlite3.Error as exc:
            kind = StoreUnavailable if isinstance(exc, sqlite3.OperationalError) else StoreError
            raise kind(f"the database {path} cannot be read: {exc}") from exc
        return None if row is None else str(row[0])

    def is_current(self) -> bool:
        """Whether the database has the schema of this version; raises StoreError if it is not a database."""
        return self.revision() == HEAD

    def listen(self, heard: Callable[[str], None]) -> Callable[[], None]:
        """Do nothing: a file tells nobody that it has changed. Return how to end that."""
        del heard
        return lambda: None

    def _run(
        self, engine: Engine, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            with engine.begin() as connection:
                return work(connection, *args, **kwargs)
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
