"""Hearing at once that something in the store has changed, where it is on a PostgreSQL server.

It only hastens: whoever is told looks for himself, and looks from time to time without being told.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import asyncpg
import structlog

from bridgeserver.store import connecting, revisions

log = structlog.get_logger("bridgecore")

FIRST_RETRY_S = 0.1
RETRY_LIMIT_S = 5.0
CHECK_S = 15.0
"""How often a connection on which nothing comes is tried."""
CLOSE_S = 1.0

Connect = Callable[[], Awaitable["asyncpg.Connection[Any]"]]


class Listener:
    """Listens on a connection of its own, which is made anew for ever, and tells *heard* what has changed."""

    def __init__(self, connect: Connect, heard: Callable[[str], None], database: str) -> None:
        self._connect = connect
        self._heard = heard
        self._database = database
        self._retry_s = FIRST_RETRY_S

    async def start(self) -> Callable[[], None]:
        """Begin, and return how to end it, from any thread."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run())
        return partial(self._stop, loop)

    def _stop(self, loop: asyncio.AbstractEventLoop) -> None:
        """End it; nothing is told when this has returned."""
        asyncio.run_coroutine_threadsafe(self._cancel(), loop).result()

    async def _cancel(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as exc:  # whatever it is, listening must go on
                if self._retry_s == FIRST_RETRY_S:
                    log.info("listening_interrupted", database=self._database, reason=type(exc).__name__)
            await asyncio.sleep(self._retry_s)
            self._retry_s = min(self._retry_s * 2, RETRY_LIMIT_S)

    async def _listen(self) -> None:
        """Listen until the connection is gone."""
        connection = await self._connect()
        gone = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _connection: gone.set())
            await connection.add_listener(revisions.CHANNEL, self._on_notice)
            self._retry_s = FIRST_RETRY_S
            # What happened before somebody listened is looked for now, and what comes from here on is heard.
            for name in revisions.NOTIFIED:
                self._heard(name)
            while not gone.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_S):
                        await gone.wait()
                        return
                await connection.fetchval("SELECT 1")
        finally:
            if not connection.is_closed():
                with suppress(*connecting.FAILURES):
                    await connection.close(timeout=CLOSE_S)

    def _on_notice(self, _connection: object, _pid: int, _channel: str, name: object) -> None:
        if name in revisions.NOTIFIED:
            self._heard(str(name))
