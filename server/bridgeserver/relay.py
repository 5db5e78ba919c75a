"""The relay: bytes of a response to the client, as they come, for as long as both sides keep up."""

from collections.abc import Callable
from functools import partial

from bridgecore import Connection, Reply
from bridgeserver.errors import BadResponse, ClientClosed, UpstreamTimeout
from bridgeserver.guard import Guard

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
    connection: Connection, lines: bytes, reply: Reply, guard: Guard, timeouts: Timeouts, watch: Watch
) -> None:
    """Send the response whose head *connection* holds, with the header fields *lines* in place of its own.

    What arrives in one read leaves in one write, and the next read waits until the client has taken it. Raises
    BadResponse when the response breaks off.
    """
    head = connection.head
    assert head is not None  # noqa: S101 - the request was sent, so the head is here
    reply.start(head.status, lines)
    if not (connection.has_bytes or connection.complete):
        reply.write(b"", more=True)  # the head need not wait for the body
    while True:
        chunk, is_last = connection.take(), connection.complete
        out = watch(chunk, is_last)
        if out or is_last:
            reply.write(out, more=not is_last)
            if reply.is_full:
                guard.expect(timeouts.client_s, timeouts.client_error)
                await reply.drain()
        if is_last:
            return
        if not (connection.complete or connection.has_bytes):
            guard.expect(timeouts.upstream_s, timeouts.upstream_error)
            await _more(connection)


async def _more(connection: Connection) -> None:
    """Wait until the connection has more of the body, or its end."""
    try:
        await connection.wait()
    except (ConnectionError, ValueError) as exc:
        raise BadResponse(f"the provider's answer broke off: {exc}") from exc
