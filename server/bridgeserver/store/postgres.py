"""PostgreSQL: a server that several gateways share. How it is reached, and what its failures are called.

SQLAlchemy speaks to asyncpg from within an event loop only. That loop runs in a thread of its own, for as long as
there is anything to do with the database, and whoever calls waits for it: what is done in a transaction is written
once, as plain functions, for this engine and for SQLite.
"""

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from weakref import WeakSet

import asyncpg
from sqlalchemy import Connection, NullPool, PoolProxiedConnection, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from bridgeserver.config.databases import place
from bridgeserver.errors import StoreUnavailable
from bridgeserver.store import connecting
from bridgeserver.store.listener import Listener
from bridgeserver.store.migrations import HEAD
from bridgeserver.store.texts import storable

CONNECT_S = 5.0
STATEMENT_S = 30.0
LOCK_S = 10.0
"""How long a statement waits for another transaction; the longest that the gateway has is a batch of records."""
IDLE_S = 60.0
"""After so long the server ends the transaction of a gateway that does not go on, and others get its locks."""
CLOSE_S = 2.0

POOL = 4
OVERFLOW = 4
"""Connections that are kept, and those beyond that for a rush of administrative requests."""

UPGRADE_LOCK = 0x62726964676563
"""The advisory lock of whoever migrates, `bridgec`; any number that others do not use."""

HINT = "check that its server runs and has room, that the user of store.url may use it, and that it was upgraded"

P = ParamSpec("P")
T = TypeVar("T")


class Postgres:
    """The database at *url*; nothing is connected before it is used. Any thread may use it.

    What was committed outlives a crash of the server, and a power cut, by the settings of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connections: WeakSet[asyncpg.Connection[Any]] = WeakSet()
        self._writing = self._engine(STATEMENT_S, pool_size=POOL, max_overflow=OVERFLOW, pool_timeout=CONNECT_S)
        self._reading = self._writing.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._migrating = self._engine(None, poolclass=NullPool)

    def close(self) -> None:
        """End what runs and close all connections; whatever is asked later opens new ones."""
        with self._guard:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            atexit.unregister(self.close)
            asyncio.run_coroutine_threadsafe(self._end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *work* finds, all as of one moment."""
        return self._run(self._reading, work, *args, **kwargs)

    def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *work* returns, and commit what it did; nothing is kept of it if it raises.

        Others may write meanwhile: what has to be one after another holds a row of `revisions`.
        """
        return self._run(self._writing, work, *args, **kwargs)

    def migrate(self, work: Callable[[Connection], T]) -> T:
        """Do the same for a change of the schema, which may take long and which no two make at once."""

        def locked(connection: Connection) -> T:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
            return work(connection)

        result = self._run(self._migrating, locked)
        self._wait(self._writing.dispose())  # its connections remember plans of statements for the tables as they were
        return result

    def revision(self) -> str | None:
        """Return the revision of the schema, None where there is none."""
        return self.read(_revision)

    def is_current(self) -> bool:
        """Whether the database has the schema of this version."""
        return self.revision() == HEAD

    def listen(self, heard: Callable[[str], None]) -> Callable[[], None]:
        """Call *heard* with the name of a revision soon after it has grown; return how to end that.

        It is called in a thread of this object, must not wait, and hears of every revision whenever the connection
        was made anew.
        """
        listener = Listener(partial(self._connect, STATEMENT_S), heard, place(self.url))
        return asyncio.run_coroutine_threadsafe(listener.start(), self._running()).result()

    def _engine(self, statement_s: float | None, **options: Any) -> AsyncEngine:
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=partial(self._connect, statement_s),
            hide_parameters=True,
            **({} if "poolclass" in options else {"pool_pre_ping": True}),
            **options,
        )
        event.listen(engine.sync_engine, "before_cursor_execute", _make_storable, retval=True)
        return engine

    async def _connect(self, statement_s: float | None) -> "asyncpg.Connection[Any]":
        settings = {"idle_in_transaction_session_timeout": str(int(IDLE_S * 1000))}
        if statement_s is not None:
            settings["lock_timeout"] = str(int(LOCK_S * 1000))
        connection = await connecting.connect(self.url, timeout_s=CONNECT_S, statement_s=statement_s, settings=settings)
        self._connections.add(connection)
        return connection

    def _run(
        self, engine: AsyncEngine, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        async def transact() -> T:
            async with engine.begin() as connection:
                try:
                    return await connection.run_sync(work, *args, **kwargs)
                except TimeoutError:  # to roll back would be to wait for the same silent server again
                    _driver_of(await connection.get_raw_connection()).terminate()
                    raise

        try:
            return self._wait(transact())
        except PoolTimeout as exc:
            raise StoreUnavailable(
                f"the database {place(self.url)} is busy: all {POOL + OVERFLOW} connections"
            ) from exc
        except CancelledError as exc:
            raise StoreUnavailable(f"the database {place(self.url)} was closed meanwhile") from exc
        except (SQLAlchemyError, *connecting.FAILURES) as exc:
            raise connecting.failure(self.url, exc, HINT) from exc

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()  # somebody pressed Ctrl-C; what has ended by itself is not changed by it
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        """Return the loop, which is started where there is none."""
        with self._guard:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="postgresql", daemon=True)
                self._thread.start()
                # A command that simply ends leaves no connection to time out at the server.
                atexit.register(self.close)
            return self._loop

    async def _end(self) -> None:
        await connecting.cancel_others()
        with suppress(SQLAlchemyError, *connecting.FAILURES):
            async with asyncio.timeout(CLOSE_S):
                await self._writing.dispose()
        for connection in self._connections:  # of a server that does not answer
            if not connection.is_closed():
                connection.terminate()
        await connecting.cancel_others()


def _driver_of(connection: PoolProxiedConnection) -> "asyncpg.Connection[Any]":
    return cast("asyncpg.Connection[Any]", connection.driver_connection)


def _revision(connection: Connection) -> str | None:
    if connection.execute(text("SELECT to_regclass('alembic_version')::text")).scalar() is None:
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _make_storable(
    _connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool
) -> tuple[str, Any]:
    """Let no text keep a statement from being run, whoever it came from."""
    if executemany:
        return statement, [_storable(row) for row in parameters]
    return statement, _storable(parameters)


def _storable(row: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(storable(value) for value in row)
