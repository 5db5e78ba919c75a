"""What goes back to the client, through ASGI."""

from bridgeserver.headers import Pairs
from bridgeserver.request import Send


class Reply:
    """The answer to one request. Returning from the application before the body is whole aborts the connection."""

    __slots__ = ("_send", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        """The status that was sent, None as long as nothing was."""

    async def start(self, status: int, headers: Pairs) -> None:
        """Send the head; it leaves with the first bytes of the body, or with an empty `write`."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, more: bool) -> None:
        """Send bytes of the body; waits while the client does not read. Without *more* they are the last."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def whole(self, status: int, body: bytes, content_type: bytes, headers: Pairs | None = None) -> None:
        """Send an answer of the gateway's own."""
        fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *(headers or ())]
        await self.start(status, fields)
        await self.write(body, more=False)
