"""The client of the data path: keep-alive connections to one origin, shared by all requests of a worker."""

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Self

from bridgecore import Connection
from bridgecore.http1 import Head
from bridgeserver.errors import BadResponse, BridgeError, Overloaded, Unreachable, UpstreamTimeout

IDLE_S = 50.0
"""Below the 60 to 75 s after which common servers close an idle connection."""

DROPPED_BYTES = 64 << 10
"""What is read of an answer that nobody gets, so that its connection can be used again."""


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
    """One request to an origin and its response; leaving its context gives the connection back.

    `send` sends the request and waits for the answer. Where something has to happen first, `prepare` takes the request,
    `start` is called when it has happened, which wakes nobody if a connection is at hand, and `answered` waits.
    """

    __slots__ = ("_connection", "_request", "_turn", "_upstream", "attempts", "received_bytes", "sent_bytes")

    def __init__(self, upstream: "Upstream") -> None:
        self._upstream = upstream
        self._connection: Connection | None = None
        self._request: tuple[bytes, bytes, bool] = (b"", b"", False)
        self._turn = upstream.loop.create_future()
        self.attempts = 0
        """Requests that were written to a connection."""
        self.sent_bytes = 0
        """What their bodies had together."""
        self.received_bytes = 0
        """What the bodies of the answers had that are over."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        if self._connection is not None:
            self._leave(self._connection)

    async def send(self, head: bytes, body: bytes, *, is_head_request: bool = False) -> Connection:
        """Send the request and return the connection once it holds the head of the response; see `answered`."""
        self.prepare(head, body, is_head_request=is_head_request)
        self.start()
        return await self.answered()

    def prepare(self, head: bytes, body: bytes, *, is_head_request: bool = False) -> None:
        """Take the request that is to be sent."""
        self._request = (head, body, is_head_request)

    def start(self, failure: BridgeError | None = None) -> None:
        """Send the request, unless whoever waits for the answer has left; with a *failure*, raise that there."""
        turn = self._turn
        if turn.done():
            return
        if failure is not None:
            turn.set_exception(failure)
        elif (connection := self._upstream.idle_connection()) is None:
            turn.set_result(None)
        else:
            self._write(connection)
            connection.wait(waiter=turn)

    async def answered(self) -> Connection:
        """Return the connection once it holds the head of the response.

        A request on a reused connection that closed before any byte came back is sent once more on a new
        one; no other request ever is. Raises Unreachable, UpstreamTimeout, BadResponse or Overloaded.
        """
        with suppress(ConnectionError, ValueError):  # the connection broke, and says so again below
            await self._turn
        connection, is_reused = self._connection, True
        if connection is None:
            connection, is_reused = await self._upstream.acquire()
            self._write(connection)
        elif connection.head is not None:
            return connection
        try:
            return await self._read_head(connection)
        except BadResponse:
            if not is_reused or connection.received:
                raise
        connection = await self._upstream.acquire_new()
        self._write(connection)
        return await self._read_head(connection)

    async def again(self, head: bytes, body: bytes) -> Connection:
        """Send another request in place of the one that was answered, and return what `answered` does.

        The rest of that answer is read and dropped, as far as that is cheaper than another connection.
        """
        connection = self._connection
        assert connection is not None  # noqa: S101 - the request was answered
        dropped = 0
        with suppress(ConnectionError, ValueError):
            while not connection.complete and dropped < DROPPED_BYTES:
                dropped += len(connection.take())
                if not (connection.complete or connection.has_bytes):
                    await connection.wait()
            connection.take()
        self._leave(connection)
        self._turn = self._upstream.loop.create_future()
        self.prepare(head, body, is_head_request=self._request[2])
        self.start()
        return await self.answered()

    def _write(self, connection: Connection) -> None:
        self._connection = connection
        self.attempts += 1
        self.sent_bytes += len(self._request[1])
        connection.send(*self._request)

    def _leave(self, connection: Connection) -> None:
        self.received_bytes += connection.body_bytes
        self._upstream.release(connection)
        self._connection = None

    async def _read_head(self, connection: Connection) -> Connection:
        try:
            while connection.head is None:
                await connection.wait()
        except ConnectionError as exc:
            raise BadResponse(f"{self._upstream.origin} closed the connection before it answered") from exc
        except ValueError as exc:
            raise BadResponse(str(exc)) from exc
        return connection


def head_of(connection: Connection) -> Head:
    """Return the head of the answer, which is here once `answered` has returned."""
    head = connection.head
    assert head is not None  # noqa: S101 - see above
    return head


class Upstreams:
    """The connections to the origins of the generation in force; a new one keeps those that it has in common."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Made once: it takes milliseconds, and one made while descriptors are short would trust nobody, silently.
        self._tls = ResumingContext()
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


class ResumingContext(ssl.SSLContext):
    """A client's TLS context that offers each host the last session it gave, which saves a handshake's signatures.

    The event loop has no parameter for a session, so it is handed over where the loop makes the TLS object.
    """

    _sessions: dict[str, ssl.SSLSession]

    def __new__(cls) -> Self:
        """Make a context that checks certificates and host names against the system's authorities."""
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context.load_default_certs()
        context.set_alpn_protocols(["http/1.1"])
        context._sessions = {}
        return context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Return the TLS object of a new connection."""
        session = session or self._sessions.get(str(server_hostname))
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def remember(self, host: str, tls: ssl.SSLObject) -> None:
        """Keep the session of a connection; with TLS 1.3 there is one once the first answer is here."""
        session = tls.session
        if session is not None and session.has_ticket:
            self._sessions[host] = session


class _Waiter(NamedTuple):
    """Somebody who waits for a connection."""

    turn: "asyncio.Future[Connection | None]"
    wants_new: bool


class Upstream:
    """The connections to one origin.

    State changes are synchronous: `_open` counts connections that exist or are being made, and a connection that is
    lost takes itself off the list. While anybody waits, nothing is idle and everything is open: a connection that is
    given back, or the place of one that is lost, is handed to the one who has waited longest, and nobody who comes
    later can take it.
    """

    def __init__(self, origin: Origin, limits: Limits, tls: ResumingContext | None = None) -> None:
        self.origin = origin
        self._limits = limits
        self.loop = asyncio.get_running_loop()
        self._tls = (tls or ResumingContext()) if origin.scheme == "https" else None
        self._idle: dict[Connection, float] = {}
        self._open = 0
        self._waiters: deque[_Waiter] = deque()
        self._is_closed = False
        self._expiry: asyncio.TimerHandle | None = None

    def exchange(self) -> Exchange:
        """Return a context in which one request can be sent to this origin."""
        return Exchange(self)

    def release(self, connection: Connection) -> None:
        """Give a connection back: handed on, or kept, if another request can use it; closed otherwise."""
        if not connection.is_reusable:
            connection.abort()
            return
        if self._tls is not None:
            self._tls.remember(self.origin.host, connection.get_extra_info("ssl_object"))
        while self._waiters:
            waiter = self._waiters[0]
            if waiter.wants_new and not waiter.turn.done():
                connection.abort()  # its place is handed on when it is gone
                return
            self._waiters.popleft()
            if not waiter.turn.done():
                waiter.turn.set_result(connection)
                return
        if self._is_closed:
            connection.close()
            return
        self._idle[connection] = self.loop.time()
        if self._expiry is None:
            self._expiry = self.loop.call_later(IDLE_S, self._expire)

    def close(self) -> None:
        """Close the idle connections; those in use, and later ones, close when their requests give them back."""
        self._is_closed = True
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        while self._idle:
            self._idle.popitem()[0].close()

    def idle_connection(self) -> Connection | None:
        """Return a connection that waits for a request; the newest, so that the others may grow old and go."""
        while self._idle:
            connection, _since = self._idle.popitem()
            if connection.is_reusable:
                return connection
        return None

    async def acquire(self) -> tuple[Connection, bool]:
        """Return a connection for one request, and whether an earlier one used it."""
        connection = self.idle_connection()
        if connection is None and not self._take_place():
            connection = await self._wait(wants_new=False)
        return (connection, True) if connection is not None else (await self._connect(), False)

    async def acquire_new(self) -> Connection:
        """Return a connection that no request has used."""
        if not self._take_place():
            if self._idle:
                next(iter(self._idle)).abort()
            await self._wait(wants_new=True)
        return await self._connect()

    def _take_place(self) -> bool:
        """Count a connection that is about to be made, if there may be one more."""
        if self._open >= self._limits.connections:
            return False
        self._open += 1
        return True

    async def _wait(self, *, wants_new: bool) -> Connection | None:
        """Return a connection that was given back, or None for the place of one that may be made; raise Overloaded."""
        deadline = self.loop.time() + self._limits.wait_s
        waiter = _Waiter(self.loop.create_future(), wants_new)
        self._waiters.append(waiter)
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    connection = await waiter.turn
            except BaseException as exc:
                if waiter.turn.done() and not waiter.turn.cancelled():
                    self._hand_on(waiter.turn.result())  # this one was called, and cannot come
                with suppress(ValueError):
                    self._waiters.remove(waiter)
                if isinstance(exc, TimeoutError):
                    raise Overloaded(
                        f"all {self._limits.connections} connections to {self.origin} are in use "
                        f"and none came free within {self._limits.wait_s:g} s",
                    ) from exc
                raise
            if connection is None or connection.is_reusable:
                return connection
            # The peer closed it on the way here; its place goes to the one who was called for it.
            waiter = _Waiter(self.loop.create_future(), wants_new)
            self._waiters.appendleft(waiter)

    def _hand_on(self, connection: Connection | None) -> None:
        if connection is None:
            self._free_place()
        else:
            self.release(connection)

    async def _connect(self) -> Connection:
        """Return a new connection in the place that was taken for it."""
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                _transport, connection = await self.loop.create_connection(
                    partial(Connection, self.loop),
                    self.origin.host,
                    self.origin.port,
                    ssl=self._tls,
                    server_hostname=self.origin.host if self._tls else None,
                )
        except BaseException as exc:
            self._free_place()
            if isinstance(exc, TimeoutError):
                raise UpstreamTimeout(
                    f"no connection to {self.origin} within {self._limits.connect_timeout_s:g} s",
                ) from exc
            if isinstance(exc, OSError):  # ssl.SSLError and its certificate failures are OSErrors too
                raise Unreachable(f"cannot connect to {self.origin}: {exc.strerror or exc}") from exc
            raise
        connection.on_lost(self._lost)
        return connection

    def _lost(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        self._free_place()

    def _free_place(self) -> None:
        """Give the place of a connection that is gone to the one who has waited longest."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.turn.done():
                waiter.turn.set_result(None)
                return
        self._open -= 1

    def _expire(self) -> None:
        self._expiry = None
        limit = self.loop.time() - IDLE_S
        for connection, since in list(self._idle.items()):
            if since > limit:
                self._expiry = self.loop.call_at(since + IDLE_S, self._expire)
                return
            del self._idle[connection]
            connection.close()
