"""The client of the data path: keep-alive connections to one origin, shared by all requests of a worker."""

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Self

from bridgecore import Connection
from bridgeserver.errors import BadResponse, Overloaded, Unreachable, UpstreamTimeout

IDLE_S = 50.0
"""Below the 60 to 75 s after which common servers close an idle connection."""


class Origin(NamedTuple):
    """Where connections go to."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


class Limits(NamedTuple):
    """How many connections, and how long to wait for one, in seconds."""

    connections: int
    wait_s: float
    connect_timeout_s: float


class Exchange:
    """One request to an origin and its response; leaving its context gives the connection back."""

    def __init__(self, upstream: "Upstream") -> None:
        self._upstream = upstream
        self._connection: Connection | None = None
        self.attempts = 0
        """Requests that were written to a connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        if self._connection is not None:
            self._upstream.release(self._connection)
            self._connection = None

    async def send(self, head: bytes, body: bytes, *, is_head_request: bool = False) -> Connection:
        """Send the request and return the connection once it holds the head of the response.

        A request on a reused connection that closed before any byte came back is sent once more on a new
        one; no other request ever is. Raises Unreachable, UpstreamTimeout, BadResponse or Overloaded.
        """
        connection = self._upstream.idle_connection()
        is_reused = connection is not None
        if connection is None:
            connection, is_reused = await self._upstream.acquire()
        try:
            return await self._send_on(connection, head, body, is_head_request)
        except BadResponse:
            if not is_reused or connection.received:
                raise
        connection = await self._upstream.acquire_new()
        return await self._send_on(connection, head, body, is_head_request)

    async def _send_on(self, connection: Connection, head: bytes, body: bytes, is_head_request: bool) -> Connection:
        self._connection = connection
        self.attempts += 1
        try:
            connection.send(head, body, is_head_request)
            while connection.head is None:
                await connection.wait()
        except ConnectionError as exc:
            raise BadResponse(f"{self._upstream.origin} closed the connection before it answered") from exc
        except ValueError as exc:
            raise BadResponse(str(exc)) from exc
        return connection


class Upstreams:
    """The connections to the origins of the generation in force; a new one keeps those that it has in common."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Made once: it takes milliseconds, and one made while descriptors are short would trust nobody, silently.
        self._tls = ssl.create_default_context()
        self._current: dict[Origin, Upstream] = {}

    def reach(self, origins: Iterable[Origin]) -> Mapping[Origin, "Upstream"]:
        """Return connections to these origins; those to others are closed as soon as they are idle."""
        before = self._current
        self._current = {
            origin: before.pop(origin) if origin in before else Upstream(origin, self._limits, self._tls)
            for origin in set(origins)
        }
        for upstream in before.values():
            upstream.close()
        return self._current

    def close(self) -> None:
        """Close all connections as soon as they are idle."""
        self.reach(())


class Upstream:
    """The connections to one origin.

    State changes are synchronous: `_open` counts connections that exist or are being made, and a connection
    that is lost takes itself off the list. Waiters are served in the order they came.
    """

    def __init__(self, origin: Origin, limits: Limits, tls: ssl.SSLContext | None = None) -> None:
        self.origin = origin
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._ssl = (tls or ssl.create_default_context()) if origin.scheme == "https" else None
        self._idle: deque[tuple[Connection, float]] = deque()
        self._open = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._is_closed = False
        self._expiry: asyncio.TimerHandle | None = None

    def exchange(self) -> Exchange:
        """Return a context in which one request can be sent to this origin."""
        return Exchange(self)

    def release(self, connection: Connection) -> None:
        """Give a connection back: kept if another request can use it, closed otherwise."""
        if not connection.is_reusable:
            connection.abort()
            return
        if self._is_closed and not self._waiters:
            connection.close()
            return
        self._idle.append((connection, self._loop.time()))
        self._wake_one()
        if self._expiry is None:
            self._expiry = self._loop.call_later(IDLE_S, self._expire)

    def close(self) -> None:
        """Close the idle connections; those in use, and later ones, close when their requests give them back."""
        self._is_closed = True
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        while self._idle:
            self._idle.popleft()[0].close()

    def idle_connection(self) -> Connection | None:
        """Return a connection that waits for a request; the newest, so that the others may grow old and go."""
        while self._idle:
            connection, _since = self._idle.pop()
            if connection.is_reusable:
                return connection
        return None

    async def acquire(self) -> tuple[Connection, bool]:
        """Return a connection for one request, and whether an earlier one used it."""
        deadline: float | None = None
        while True:
            connection = self.idle_connection()
            if connection is not None:
                return connection, True
            if self._open < self._limits.connections:
                return await self._connect(), False
            deadline = await self._wait(deadline)

    async def acquire_new(self) -> Connection:
        """Return a connection that no request has used."""
        deadline: float | None = None
        while self._open >= self._limits.connections:
            if self._idle:
                self._idle.popleft()[0].abort()
            deadline = await self._wait(deadline)
        return await self._connect()

    async def _wait(self, deadline: float | None) -> float:
        """Wait for a turn and return the deadline; one who has waited before, and found nothing, goes first."""
        waiter = self._loop.create_future()
        if deadline is None:
            deadline = self._loop.time() + self._limits.wait_s
            self._waiters.append(waiter)
        else:
            self._waiters.appendleft(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except BaseException as exc:
            if waiter.done() and not waiter.cancelled():
                self._wake_one()  # this one was called, and cannot come
            with suppress(ValueError):
                self._waiters.remove(waiter)
            if isinstance(exc, TimeoutError):
                raise Overloaded(
                    f"all {self._limits.connections} connections to {self.origin} are in use "
                    f"and none came free within {self._limits.wait_s:g} s",
                ) from exc
            raise
        return deadline

    async def _connect(self) -> Connection:
        self._open += 1
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                _transport, connection = await self._loop.create_connection(
                    partial(Connection, self._loop),
                    self.origin.host,
                    self.origin.port,
                    ssl=self._ssl,
                    server_hostname=self.origin.host if self._ssl else None,
                )
        except BaseException as exc:
            self._forget()
            if isinstance(exc, TimeoutError):
                raise UpstreamTimeout(
                    f"no connection to {self.origin} within {self._limits.connect_timeout_s:g} s",
                ) from exc
            if isinstance(exc, OSError):  # ssl.SSLError and its certificate failures are OSErrors too
                raise Unreachable(f"cannot connect to {self.origin}: {exc.strerror or exc}") from exc
            raise
        connection.on_lost(self._lost)
        return connection

    def _lost(self, _connection: Connection) -> None:
        self._forget()

    def _forget(self) -> None:
        self._open -= 1
        self._wake_one()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _expire(self) -> None:
        self._expiry = None
        limit = self._loop.time() - IDLE_S
        while self._idle and (self._idle[0][1] <= limit or not self._idle[0][0].is_reusable):
            self._idle.popleft()[0].close()
        if self._idle:
            self._expiry = self._loop.call_at(self._idle[0][1] + IDLE_S, self._expire)
