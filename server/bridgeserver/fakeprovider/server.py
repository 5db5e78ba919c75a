"""The provider as a server: scripts in, requests out, from any thread."""

import asyncio
import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from bridgeserver.fakeprovider.catalogue import SCRIPTS
from bridgeserver.fakeprovider.connection import Connection
from bridgeserver.fakeprovider.delivery import Gate
from bridgeserver.fakeprovider.log import log_line
from bridgeserver.fakeprovider.plan import Plan
from bridgeserver.fakeprovider.received import Received
from bridgeserver.fakeprovider.script import Script
from bridgeserver.fakeprovider.seed import CREATED_AT
from bridgeserver.fakeprovider.service import Service

BACKLOG = 4096
"""Connections that may wait to be accepted: benchmarks open thousands at once."""


class FakeProvider:
    """A scripted upstream on the running loop; its public members but `start` and `stop` work from any thread.

    *scripts* are by model name and stand before the catalogue's. *log* is a file that gets a line of JSON for
    each request. Of the requests the last *keep_requests* are remembered. With *is_unique* equal requests get
    different ids.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        script: Script | None = None,
        scripts: Mapping[str, Script] | None = None,
        log: Path | None = None,
        ssl_context: ssl.SSLContext | None = None,
        keep_requests: int = 256,
        is_unique: bool = False,
        clock: Callable[[], float] = lambda: CREATED_AT,
    ) -> None:
        self.script = script
        self.host = host
        self.port = port
        """The port that was asked for; once started, the one that is listened on."""
        self.gate = Gate()
        self._pushed: deque[Script] = deque()
        self._service = Service({**SCRIPTS, **(scripts or {})}, clock, is_unique=is_unique)
        self._ssl_context = ssl_context
        self._log_path = log
        self._log: BinaryIO | None = None
        self._kept: deque[Received] = deque(maxlen=keep_requests)
        self._count = 0
        self._arrival = threading.Condition()
        self._connections: set[Connection] = set()
        self._connection_count = 0
        self._all_lost = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        scheme = "https" if self._ssl_context else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    @property
    def requests(self) -> list[Received]:
        """The requests so far, in the order in which their bodies were complete."""
        with self._arrival:
            return list(self._kept)

    def push(self, *scripts: Script) -> None:
        """Hold back scripts for the next requests, one each, whatever they ask for."""
        self._pushed.extend(scripts)

    def release(self, count: int = 1) -> None:
        """Let *count* gated events pass; those that do not come yet pass when they do."""
        if self._server is None:
            raise RuntimeError("release: expected a started provider; start it first")
        self._loop.call_soon_threadsafe(self.gate.release, count)

    def reset(self) -> None:
        """Forget scripts that were pushed, requests that came, and events that were released.

        Not for the thread that the provider runs in.
        """
        if self._server is None:
            raise RuntimeError("reset: expected a started provider; start it first")
        self.script = None
        self._pushed.clear()
        with self._arrival:
            self._kept.clear()
            self._count = 0
        is_reset = threading.Event()

        def reset() -> None:
            self.gate.reset()
            is_reset.set()

        self._loop.call_soon_threadsafe(reset)
        is_reset.wait()

    def wait_for(self, count: int, timeout_s: float = 10.0) -> list[Received]:
        """Block until *count* requests have come since the start, and return those that are remembered.

        Raises TimeoutError. Not for the thread that the provider runs in.
        """
        with self._arrival:
            if not self._arrival.wait_for(lambda: self._count >= count, timeout_s):
                raise TimeoutError(f"expected {count} requests within {timeout_s} s, found {self._count}")
            return list(self._kept)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._log_path:
            self._log = self._log_path.open("ab", buffering=0)
        self._server = await self._loop.create_server(
            lambda: Connection(self), self.host, self.port, ssl=self._ssl_context, backlog=BACKLOG
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.drop()
        if self._connections:
            await self._all_lost.wait()
        await self._server.wait_closed()
        if self._log:
            self._log.close()

    def opened(self, connection: Connection) -> int:
        self._connections.add(connection)
        self._all_lost.clear()
        self._connection_count += 1
        return self._connection_count

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_lost.set()

    def plan(self, received: Received, *, is_http_1_0: bool, closes: bool) -> Plan:
        with self._arrival:
            self._kept.append(received)
            self._count += 1
            self._arrival.notify_all()
        script = self._pushed.popleft() if self._pushed else self.script
        return self._service.plan(received, script, is_http_1_0=is_http_1_0, closes=closes)

    def ended(self, received: Received) -> None:
        if self._log:
            self._log.write(log_line(received))
