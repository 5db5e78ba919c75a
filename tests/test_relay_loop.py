"""The relay's loop, with a client that the test paces."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

from bridgecore import Connection
from bridgeserver.guard import Guard
from bridgeserver.relay import Timeouts, relay
from bridgeserver.reply import Reply
from rawserver import raw_server, read_request
from test_http1 import REQUEST, connect, run


def test_bytes_that_come_while_the_client_is_slow_are_relayed_at_once() -> None:
    """When the client has taken what it was sent, what has come meanwhile follows; nothing is waited for."""

    async def scenario() -> bytes:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nfirst ")
            await writer.drain()
            await may_go_on.wait()
            writer.write(b"second")
            await reader.read()

        may_go_on, done = asyncio.Event(), asyncio.Event()
        received = bytearray()

        async def send(message: MutableMapping[str, Any]) -> None:
            received.extend(message.get("body", b""))
            if received.endswith(b"second"):
                done.set()
            elif received:
                may_go_on.set()
                while not connection.has_bytes:  # the client reads on only when more has come
                    await asyncio.sleep(0.001)

        async with raw_server(handler) as port:
            connection: Connection = await connect(port)
            connection.send(REQUEST, b"{}")
            while connection.head is None:
                await connection.wait()
            task = asyncio.current_task()
            assert task is not None
            guard = Guard(task, asyncio.get_running_loop(), 60)
            timeouts = Timeouts(upstream_s=600, client_s=600)
            relaying = asyncio.create_task(
                relay(connection, [], Reply(send), guard, timeouts, lambda chunk, _is_last: chunk)
            )
            await done.wait()
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)
            guard.close()
            connection.abort()
        return bytes(received)

    assert run(scenario()) == b"first second"
