"""Streams that stay open: their memory is measured meanwhile."""

import asyncio
from typing import cast

from benchmarks.gateway.load.order import Target
from benchmarks.gateway.wire import Answer

AT_ONCE = 100
OPENING_S = 20.0


class Client(asyncio.Protocol):
    """A connection with a stream that does not end."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._answer = Answer()
        self.has_events: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if b"\n\n" in self._answer.feed(data) and not self.has_events.done():
            self.is_open = self._answer.status == 200
            self.has_events.set_result(self.is_open)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.is_open = False
        if not self.has_events.done():
            self.has_events.set_result(False)

    def abort(self) -> None:
        self._transport.abort()


class Held:
    """The streams that are open."""

    def __init__(self) -> None:
        self._clients: list[Client] = []

    async def grow(self, target: Target, count: int) -> dict[str, int]:
        """Open streams until *count* are open, each with an event that has arrived; return how many are.

        These are fewer where a program does not take them, or not in time.
        """
        request = target["request"].encode()
        loop = asyncio.get_running_loop()
        end = loop.time() + OPENING_S
        while (missing := count - len(self._clients)) > 0:
            opening = [asyncio.create_task(self._open(target, request)) for _ in range(min(missing, AT_ONCE))]
            done, late = await asyncio.wait(opening, timeout=max(0.0, end - loop.time()))
            for task in late:
                task.cancel()
            if late or not all(task.result() for task in done):
                break
        return {"open": sum(client.is_open for client in self._clients)}

    async def _open(self, target: Target, request: bytes) -> bool:
        loop = asyncio.get_running_loop()
        try:
            _, client = await loop.create_connection(lambda: Client(request), "127.0.0.1", target["port"])
        except OSError:
            return False
        self._clients.append(client)
        return await client.has_events

    async def let_go(self) -> dict[str, int]:
        for client in self._clients:
            client.abort()
        count = len(self._clients)
        self._clients.clear()
        return {"closed": count}
