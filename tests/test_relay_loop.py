"""The relay's loop, with a client that the test paces."""

import asyncio
from contextlib import suppress

from bridgecore import Connection, Guards, Reply, Request
from bridgeserver.errors import BadResponse
from bridgeserver.relay import Timeouts, relay
from clientlab import Client, serve
from rawserver import raw_server, read_request
from test_http1 import REQUEST, connect, run


def test_bytes_that_come_while_the_client_is_slow_are_relayed_at_once() -> None:
    """When the client has taken what it was sent, what has come meanwhile follows; nothing is waited for."""

    async def scenario() -> list[bytes]:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nfirst ")
            await writer.drain()
            await may_go_on.wait()
            writer.write(b"second")
            await reader.read()

        def watch(chunk: bytes, _is_last: bool) -> bytes:
            client.connection.pause_writing()  # so the relay waits after every write until the client reads on
            return chunk

        async def answer(request: Request, reply: Reply) -> None:
            task = asyncio.current_task()
            assert task is not None
            guard = Guards(asyncio.get_running_loop(), 3600, RuntimeError).open(task)
            timeouts = Timeouts(upstream_s=600, client_s=600)
            with suppress(BadResponse):  # the test ends it
                await relay(connection, b"content-length: 1000\r\n", request, reply, guard, timeouts, watch)

        may_go_on = asyncio.Event()
        async with raw_server(handler) as port:
            connection: Connection = await connect(port)
            connection.send(REQUEST, b"{}")
            while connection.head is None:
                await connection.wait()
            server = serve(answer)
            client = Client(server)
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            while b"first " not in client.wire.sent:
                await asyncio.sleep(0)
            may_go_on.set()
            while not connection.has_bytes:
                await asyncio.sleep(0.001)
            client.connection.resume_writing()
            while b"second" not in client.wire.sent:
                await asyncio.sleep(0)
            connection.abort()
            client.connection.resume_writing()
            while server.running:
                await asyncio.sleep(0)
            server.abort()
        return client.wire.writes

    first, second = run(scenario())
    assert first.endswith(b"\r\n\r\nfirst ")
    assert second == b"second"


def test_the_last_bytes_are_written_once() -> None:
    """An answer whose end comes with its last bytes, while the relay waits, ends there."""

    async def scenario() -> tuple[list[bytes], list[BaseException]]:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
            await writer.drain()
            await may_go_on.wait()
            writer.write(b" last")
            await reader.read()

        failures = list[BaseException]()
        may_go_on = asyncio.Event()

        async def answer(request: Request, reply: Reply) -> None:
            task = asyncio.current_task()
            assert task is not None
            guard = Guards(asyncio.get_running_loop(), 3600, RuntimeError).open(task)
            try:
                await relay(
                    connection,
                    b"content-length: 10\r\n",
                    request,
                    reply,
                    guard,
                    Timeouts(upstream_s=600, client_s=600),
                    lambda chunk, _is_last: chunk,
                )
            except Exception as exc:
                failures.append(exc)

        async with raw_server(handler) as port:
            connection: Connection = await connect(port)
            connection.send(REQUEST, b"{}")
            while connection.head is None:
                await connection.wait()
            server = serve(answer)
            client = Client(server)
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            while b"first" not in client.wire.sent:
                await asyncio.sleep(0)
            may_go_on.set()
            while server.running:
                await asyncio.sleep(0)
            server.abort()
            connection.abort()
        return client.wire.writes, failures

    writes, failures = run(scenario())
    assert failures == []
    assert writes[-1] == b" last"
    assert len(writes) == 2
