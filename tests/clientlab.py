"""A client of the serving side without a socket: the test sends the bytes and sees every write."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from bridgecore import ClientConnection, Reply, Request, Server

Handler = Callable[[Request, Reply], Awaitable[None]]


class Wire(asyncio.Transport):
    """The transport of one connection; `writes` is what would have gone to the client, a write each."""

    def __init__(self, peer: tuple[str, int] | None = ("192.0.2.7", 1)) -> None:
        super().__init__({"peername": peer, "socket": self})
        self.writes: list[bytes] = []
        self.reads = True
        self.sent_eof = False
        self.was_reset = False
        self.end = ""
        """How the server ended the connection: "", "close" or "abort"."""

    @property
    def sent(self) -> bytes:
        return b"".join(self.writes)

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.writes.append(b"".join(list_of_data))

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.sent_eof = True

    def get_write_buffer_size(self) -> int:
        return 0

    def setsockopt(self, *_option: Any) -> None:
        self.was_reset = True

    def is_closing(self) -> bool:
        return bool(self.end)

    def close(self) -> None:
        self.end = self.end or "close"

    def abort(self) -> None:
        self.end = "abort"


class Client:
    """One connection to a server of its own."""

    def __init__(self, server: Server, wire: Wire | None = None) -> None:
        self.wire = wire or Wire()
        self.connection: ClientConnection = server()
        self.connection.connection_made(self.wire)

    def send(self, data: bytes) -> None:
        """Send bytes as one read."""
        self.connection.data_received(data)

    def leave(self) -> None:
        """Lose the connection."""
        self.connection.connection_lost(None)


def serve(handler: Handler, **options: Any) -> Server:
    """Return a server on the running loop for *handler*, which need not close its reply."""

    async def handle(request: Request, reply: Reply) -> None:
        try:
            await handler(request, reply)
        finally:
            reply.close()

    return Server(asyncio.get_running_loop(), handle, **{"timeout_s": 60, "max_connections": 8} | options)


async def settle() -> None:
    """Let everything happen that needs no event from outside."""
    for _ in range(20):
        await asyncio.sleep(0)


class Answer(NamedTuple):
    """One answer as a client reads it."""

    status: int
    headers: dict[str, str]
    body: bytes


def parse(data: bytes) -> Answer:
    """Return the one answer that *data* is; its body as it was framed."""
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    if "content-length" in headers:
        assert len(body) in {0, int(headers["content-length"])}
    return Answer(int(line.split(" ")[1]), headers, body)
