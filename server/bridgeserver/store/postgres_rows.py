"""Reading a PostgreSQL database in a worker, through asyncpg alone.

A worker reads its store in a thread of its own, which waits. So the driver gets an event loop that runs for one
statement at a time in whichever thread asks, apart from the loop that serves.
"""

import asyncio
import threading
from contextlib import suppress
from typing import Any

import asyncpg

from bridgeserver.store import connecting
from bridgeserver.store.texts import storable

CONNECT_S = 2.0
STATEMENT_S = 2.0
CLOSE_S = 1.0

HINT = "it cannot be read now; check its server and store.url"


class PostgresRows:
    """Rows of the database at *url*; connects when it is asked first, and again when the connection was lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: asyncpg.Connection[Any] | None = None

    def close(self) -> None:
        """Let go of the database."""
        if self._loop is not None:
            # Whoever closes it may be within a loop that runs, and no other runs in that thread meanwhile.
            thread = threading.Thread(target=self._end, args=(self._loop,), name="store-end")
            thread.start()
            thread.join()
            self._loop = self._connection = None

    def all(self, sql: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        """Return the rows of a statement; raises StoreError."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        try:
            return self._loop.run_until_complete(self._fetch(sql, [storable(value) for value in parameters]))
        except connecting.FAILURES as exc:
            raise connecting.failure(self._url, exc, HINT) from exc

    async def _fetch(self, sql: str, parameters: list[str | int]) -> list[tuple[Any, ...]]:
        is_new = self._connection is None
        if self._connection is None:
            self._connection = await self._connect()
        try:
            return [tuple(row) for row in await self._connection.fetch(sql, *parameters)]
        except connecting.FAILURES as exc:
            if isinstance(exc, TimeoutError):
                self._connection.terminate()
            if not self._connection.is_closed():
                raise
            self._connection = None
            await asyncio.sleep(0)  # a turn for what was terminated
            # The server may have been away while nobody asked.
            if is_new or isinstance(exc, TimeoutError):
                raise
        return await self._fetch(sql, parameters)

    async def _connect(self) -> "asyncpg.Connection[Any]":
        settings = {"default_transaction_read_only": "on"}
        return await connecting.connect(self._url, timeout_s=CONNECT_S, statement_s=STATEMENT_S, settings=settings)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._connection is not None:
            with suppress(*connecting.FAILURES):
                loop.run_until_complete(self._connection.close(timeout=CLOSE_S))
        loop.run_until_complete(connecting.cancel_others())
        loop.close()
