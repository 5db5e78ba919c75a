"""The relay: bytes of a response to the client, as they come, for as long as both sides keep up."""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from bridgecore import Connection, Guard, Reply, Request
from bridgeserver.errors import BadResponse, ClientClosed, UpstreamTimeout
from bridgeserver.upstream import head_of

log = structlog.get_logger("bridgecore")

SLOW_S = 0.5
"""A client that takes longer to read what it was sent is named in the log, once a request."""

Watch = Callable[[bytes, bool], bytes]
"""Sees the bytes of a body before the client does, and whether they are the last; returns what to send on."""


class Timeouts:
    """The two waits of a relay, and what it means when they take too long."""

    __slots__ = ("client_error", "client_s", "upstream_error", "upstream_s")

    def __init__(self, *, upstream_s: float, client_s: float) -> None:
        self.upstream_s = upstream_s
        self.client_s = client_s
        self.upstream_error = partial(UpstreamTimeout, f"the provider sent nothing for {upstream_s:g} s")
        self.client_error = partial(ClientClosed, f"the client read nothing for {client_s:g} s")


async def relay(
    connection: Connection,
    lines: bytes | None,
    request: Request,
    reply: Reply,
    guard: Guard,
    timeouts: Timeouts,
    watch: Watch,
    *,
    is_last: bool = True,
) -> None:
    """Send the response whose head *connection* holds, with the header fields *lines* in place of its own.

    What arrives in one read leaves in one write, and the next read waits until the client has taken it. Without
    *lines* the body goes on with an answer that has begun; unless this *is_last*, the answer is left open. Raises
    BadResponse when the response breaks off.
    """
    if lines is not None:
        reply.start(head_of(connection).status, lines)
    if lines is not None and not (connection.has_bytes or connection.complete):
        reply.write(b"", more=True)  # the head need not wait for the body
    pump = _Pump(connection, reply, guard, timeouts, watch, is_last=is_last)
    is_known_as_slow = False
    while not pump.is_done:
        if connection.has_bytes or connection.complete:
            pump()
        else:
            guard.expect(timeouts.upstream_s, timeouts.upstream_error)
            try:
                await connection.wait(pump)
            except (ConnectionError, ValueError) as exc:
                raise BadResponse(f"the provider's answer broke off: {exc}") from exc
        pump.check()
        if reply.is_full:
            guard.expect(timeouts.client_s, timeouts.client_error)
            loop = asyncio.get_running_loop()
            waited_s = -loop.time()
            await reply.drain()
            waited_s += loop.time()
            if waited_s > SLOW_S and not is_known_as_slow:
                is_known_as_slow = True
                agent = request.headers.get(b"user-agent", b"")[:200].decode("latin-1")
                log.warning("slow_client", waited_s=round(waited_s, 3), client=request.peer, user_agent=agent)


class _Pump:
    """Hands on what is here of a body; called by the connection itself for as long as the client keeps up.

    So bytes leave in the turn of the loop in which they came, and nobody is woken for them.
    """

    __slots__ = ("_connection", "_error", "_guard", "_is_last", "_reply", "_timeouts", "_watch", "is_done")

    def __init__(
        self,
        connection: Connection,
        reply: Reply,
        guard: Guard,
        timeouts: Timeouts,
        watch: Watch,
        *,
        is_last: bool,
    ) -> None:
        self._connection = connection
        self._reply = reply
        self._guard = guard
        self._timeouts = timeouts
        self._watch = watch
        self._is_last = is_last
        self._error: Exception | None = None
        self.is_done = False
        """Whether the last bytes were written."""

    def __call__(self) -> bool:
        """Take and write once; return whether the relay has to look at it, which is so at the end and when it waits."""
        try:
            chunk, is_last = self._connection.take(), self._connection.complete
            out = self._watch(chunk, is_last)
            if out or (is_last and self._is_last):
                self._reply.write(out, more=not (is_last and self._is_last))
        except Exception as exc:  # it belongs to the request and not to the event loop
            self._error = exc
            return True
        self.is_done = is_last
        self._guard.expect(self._timeouts.upstream_s, self._timeouts.upstream_error)
        return is_last or self._reply.is_full

    def check(self) -> None:
        """Raise what a call that the connection made has raised."""
        if self._error is not None:
            raise self._error
