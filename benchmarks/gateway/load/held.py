"""Streams that stay open: their memory is measured meanwhile."""

import asyncio
from typing import cast

from benchmarks.gateway.load.order import Target
from benchmarks.gateway.wire import Answer

AT_ONCE = 100
OPENING_S = 60.0


class Client(asyncio.Protocol):
    """A connection with a stream that does not end."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._answer = Answer()
        self.has_events = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if b"\n\n" in self._answer.feed(data) and not self.has_events.done():
            self.has_events.set_result(self._answer.status == 200)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.has_events.done():
            self.has_events.set_result(False)

    def abort(self) -> None:
        self._transport.abort()


class Held:
    """The streams that are open."""

    def __init__(self) -> None:
        self._clients: list[Client] = []

    async def grow(self, target: Target, count: int) -> dict[str, int]:
        """Open streams until there are *count*, each with an event that has arrived; return how many there are."""
        request = target["request"].encode()
        async with asyncio.timeout(OPENING_S):
            while (missing := count - len(self._clients)) > 0:
                opened = await asyncio.gather(*(self._open(target, request) for _ in range(min(missing, AT_ONCE))))
                if not all(opened):
                    break
        return {"open": sum(client.has_events.done() and client.has_events.result() for client in self._clients)}

    async def _open(self, target: Target, request: bytes) -> bool:
        loop = asyncio.get_running_loop()
        try:
            _, client = await loop.create_connection(lambda: Client(request), "127.0.0.1", target["port"])
        except OSError:
            return False
        self._clients.append(client)
        return bool(await client.has_events)

    async def let_go(self) -> dict[str, int]:
        for client in self._clients:
            client.abort()
        count = len(self._clients)
        self._clients.clear()
        return {"closed": count}
