"""The upstream connection, against a server whose every byte is given."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from bridgecore import Connection
from rawserver import Handler, answering, raw_server, read_request

REQUEST = b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n"


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run *coroutine* on the event loop of production."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


async def connect(port: int, **options: int) -> Connection:
    """Return a connection to the server under test."""
    loop = asyncio.get_running_loop()
    _transport, connection = await loop.create_connection(partial(Connection, loop, **options), "127.0.0.1", port)
    return connection


async def read_response(connection: Connection) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, headers and body of the response under way."""
    while connection.head is None:
        await connection.wait()
    body = b""
    while True:
        body += connection.take()
        if connection.complete:
            return connection.head.status, connection.head.headers, body
        await connection.wait()


async def exchange(handler: Handler, **options: int) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool]:
    """Send one request to *handler* and return its response, and whether the connection can be used again."""
    async with raw_server(handler) as port:
        connection = await connect(port, **options)
        try:
            connection.send(REQUEST, b"{}")
            return *await read_response(connection), connection.is_reusable
        finally:
            connection.abort()


@pytest.mark.parametrize(
    ("answer", "close", "status", "body", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", False, 200, b"abc", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", False, 200, b"", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, 204, b"", True),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", False, 304, b"", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc", False, 200, b"abc", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc", False, 200, b"abc", False),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", True, 200, b"until the end", False),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nx-t: 1\r\n\r\n",
            False,
            200,
            b"abcde",
            True,
        ),
        (
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
                b"HTTP/1.1 201 Created\r\ncontent-length: 1\r\n\r\nz"
            ),
            False,
            201,
            b"z",
            True,
        ),
    ],
    ids=["length", "empty", "204", "304", "close", "http10", "until-close", "chunked", "informational"],
)
def test_reads_every_framing(answer: bytes, close: bool, status: int, body: bytes, reusable: bool) -> None:
    """Each way to delimit a body is understood, and tells whether the connection lives on."""
    got_status, headers, got_body, got_reusable = run(exchange(answering(answer, close=close)))
    assert (got_status, got_body, got_reusable) == (status, body, reusable)
    assert (b"link", b"</a>") not in headers


def test_keeps_header_order_and_duplicates() -> None:
    """Header fields come as they were sent, names in lower case."""
    answer = b"HTTP/1.1 200 OK\r\nX-B: 1\r\nx-a: 2\r\nX-b: 3\r\nContent-Length: 0\r\n\r\n"
    _status, headers, _body, _reusable = run(exchange(answering(answer)))
    assert headers == [(b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b"3"), (b"content-length", b"0")]


def test_hands_on_each_read_as_it_arrives() -> None:
    """A slice of the body is there before the server sends the next one."""

    async def scenario() -> list[bytes]:
        go_on = asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc")
            await go_on.wait()
            writer.write(b"def")
            await reader.read()

        async with raw_server(handler) as port:
            connection = await connect(port)
            connection.send(REQUEST, b"{}")
            while not (first := connection.take()):
                await connection.wait()
            go_on.set()
            while not connection.complete:
                await connection.wait()
            second = connection.take()
            connection.abort()
            return [first, second]

    assert run(scenario()) == [b"abc", b"def"]


def test_serves_requests_one_after_another() -> None:
    """A kept connection serves the next request; one in use takes none."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n"

    async def scenario() -> list[bytes]:
        async with raw_server(answering(answer + b"1", answer + b"2")) as port:
            connection = await connect(port)
            bodies = list[bytes]()
            for _ in range(2):
                connection.send(REQUEST, b"{}")
                with pytest.raises(ConnectionError):
                    connection.send(REQUEST, b"{}")
                bodies.append((await read_response(connection))[2])
            connection.abort()
            return bodies

    assert run(scenario()) == [b"1", b"2"]


def test_an_answer_that_nobody_took_is_nobody_elses() -> None:
    """A connection with bytes of one response left is never used for the next request."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret"

    async def scenario() -> tuple[bool, bool]:
        async with raw_server(answering(answer, answer)) as port:
            connection = await connect(port)
            connection.send(REQUEST, b"{}")
            while not connection.complete:
                await connection.wait()
            before = connection.is_reusable
            with pytest.raises(ConnectionError, match="nobody took"):
                connection.send(REQUEST, b"{}")
            assert connection.take() == b"secret"
            after = connection.is_reusable
            connection.abort()
            return before, after

    assert run(scenario()) == (False, True)


def test_waiting_ends_at_once_when_bytes_are_here() -> None:
    """Bytes that came while nobody waited are not waited for."""

    async def scenario() -> bytes:
        lost = asyncio.Event()
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc"
        async with raw_server(answering(answer, close=True)) as port:
            connection = await connect(port)
            connection.on_lost(lambda _connection: lost.set())
            connection.send(REQUEST, b"{}")
            await lost.wait()
            await connection.wait()
            return connection.take()

    assert run(scenario()) == b"abc"


def test_bytes_outlive_a_connection_that_was_lost_while_reading_was_paused() -> None:
    """What was received before the connection went is handed out, although reading had been stopped."""

    async def scenario() -> int:
        total = 1 << 20
        answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % total + bytes(total)
        async with raw_server(answering(answer, close=True)) as port:
            connection = await connect(port, buffer_bytes=1)
            connection.send(REQUEST, b"{}")
            received = 0
            while not connection.complete:
                await connection.wait()
                await asyncio.sleep(0)  # more may come before the caller takes
                received += len(connection.take())
            assert connection.error is not None
            return received + len(connection.take())

    assert run(scenario()) == 1 << 20


def test_trailers_do_not_become_headers_of_the_next_response() -> None:
    """Trailer fields of one response are dropped and stand in no other."""
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-trailer: 1\r\n\r\n"
    plain = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

    async def scenario() -> list[tuple[bytes, bytes]]:
        async with raw_server(answering(chunked, plain)) as port:
            connection = await connect(port)
            connection.send(REQUEST, b"{}")
            await read_response(connection)
            connection.send(REQUEST, b"{}")
            _status, headers, _body = await read_response(connection)
            connection.abort()
            return headers

    assert run(scenario()) == [(b"content-length", b"0")]


def test_a_head_request_has_no_body() -> None:
    """The length in an answer to HEAD announces nothing, and the connection ends with it."""

    async def scenario() -> tuple[int, bytes, bool]:
        async with raw_server(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")) as port:
            connection = await connect(port)
            connection.send(b"HEAD /x HTTP/1.1\r\nhost: h\r\n\r\n", b"", is_head_request=True)
            status, _headers, body = await read_response(connection)
            return status, body, connection.is_reusable

    assert run(scenario()) == (200, b"", False)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ConnectionError),
        (b"HTTP/1.1 200 OK\r\ncontent-le", ConnectionError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc", ConnectionError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", ConnectionError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", ValueError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nabc", ValueError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", ValueError),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", ValueError),
        (b"SSH-2.0-OpenSSH_9.9\r\n", ValueError),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", ValueError),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000_000, ValueError),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 4000, ValueError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"x" * 700_000, ValueError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: " + b"y" * 700_000, ValueError),
        (b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n", ValueError),
        (b"HTTP/1.1 200 OK\r\nx : a\r\n\r\n", ValueError),
        (b"HTTP/1.1 20 OK\r\n\r\n", ValueError),
    ],
    ids=[
        "nothing",
        "head",
        "length",
        "chunk",
        "size",
        "lengths",
        "both",
        "upgrade",
        "ssh",
        "huge-head",
        "endless-head",
        "informational",
        "extension",
        "trailer",
        "nul",
        "space",
        "status",
    ],
)
def test_a_broken_answer_is_an_error_and_the_end(answer: bytes, error: type[Exception]) -> None:
    """A cut is a ConnectionError, bytes that are not HTTP a ValueError; the connection is not used again."""

    async def scenario() -> bool:
        async with raw_server(answering(answer, close=True)) as port:
            connection = await connect(port)
            connection.send(REQUEST, b"{}")
            with pytest.raises(error):
                await read_response(connection)
            return connection.is_reusable

    assert run(scenario()) is False


def test_hands_out_what_came_before_the_break() -> None:
    """Bytes that arrived are relayed even when the answer broke right after them."""

    async def scenario() -> bytes:
        answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"
        async with raw_server(answering(answer)) as port:
            connection = await connect(port)
            connection.send(REQUEST, b"{}")
            while connection.head is None:
                await connection.wait()
            body = b""
            with pytest.raises(ValueError, match="not valid HTTP"):
                while True:
                    body += connection.take()
                    await connection.wait()
            return body

    assert run(scenario()) == b"abc"


def test_bytes_that_no_request_asked_for_end_the_connection() -> None:
    """A peer that speaks out of turn is not trusted with another request."""

    async def scenario() -> Exception | None:
        lost = asyncio.Event()
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        async with raw_server(answering(answer + answer)) as port:
            connection = await connect(port)
            connection.on_lost(lambda _connection: lost.set())
            connection.send(REQUEST, b"{}")
            await read_response(connection)
            await lost.wait()
            return connection.error

    assert isinstance(run(scenario()), (ValueError, ConnectionError))


def test_stops_reading_while_nobody_takes() -> None:
    """At most the buffer and what the kernel holds is read ahead of a caller that does not take."""

    async def scenario() -> int:
        total = 64 << 20
        sent = 0

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
            for _ in range(total >> 16):
                writer.write(bytes(1 << 16))
                await writer.drain()
                sent += 1 << 16

        async with raw_server(handler) as port:
            connection = await connect(port, buffer_bytes=1 << 16)
            connection.send(REQUEST, b"{}")
            previous = -1
            while sent != previous:  # until the server is held up
                previous = sent
                await asyncio.sleep(0.05)
            held_at = sent
            received = 0
            while not connection.complete:
                received += len(connection.take())
                if not connection.complete:
                    await connection.wait()
            received += len(connection.take())
            assert received == total
            connection.abort()
            return held_at

    assert run(scenario()) < 32 << 20


def test_an_early_answer_ends_the_connection() -> None:
    """A server that answered before it had read the body is not sent another request."""

    async def scenario() -> tuple[int, bool]:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            await asyncio.Event().wait()

        async with raw_server(handler) as port:
            connection = await connect(port)
            body = bytes(64 << 20)
            connection.send(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(body), body)
            status, _headers, _body = await read_response(connection)
            return status, connection.is_reusable

    assert run(scenario()) == (413, False)


ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nx-t: 1\r\n\r\n",
    "informational": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
}


LOOP = asyncio.new_event_loop()
LOOP.close()  # nothing here runs on it


class Stub(asyncio.Transport):
    """A transport that notes only whether it was ended."""

    is_ended = False

    def write(self, data: Any) -> None:
        """Send nothing."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_ended

    def abort(self) -> None:
        self.is_ended = True


def receive(*reads: bytes) -> Connection:
    """Return a connection with a request under way that has received *reads*."""
    connection = Connection(LOOP)
    connection.connection_made(Stub())
    connection.send(REQUEST, b"{}")
    for data in reads:
        connection.data_received(data)
    return connection


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(1, 150), max_size=8, unique=True))
def test_any_split_of_an_answer_is_the_same_answer(name: str, cuts: list[int]) -> None:
    """Where one read ends and the next begins makes no difference."""
    data = ANSWERS[name]
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    connection = receive(*(data[a:b] for a, b in pairwise(places)))
    assert connection.head is not None
    assert (connection.head.status, connection.complete, connection.take()) == (200, True, b"hello")
    assert connection.is_reusable


@given(st.sampled_from(sorted(ANSWERS)), st.integers(0, 100), st.binary(min_size=1, max_size=40))
def test_what_follows_or_mangles_an_answer_is_nobody_elses(name: str, place: int, junk: bytes) -> None:
    """Bytes in the middle may break an answer; a connection that is still reusable has none of them left."""
    data = ANSWERS[name]
    connection = receive(data[:place] + junk + data[place:])
    if place >= len(data):
        assert not connection.is_reusable
    body = connection.take()
    if connection.is_reusable:
        assert connection.complete
        assert not connection.has_bytes
        assert len(body) < len(data) + len(junk)


@given(st.binary(max_size=200))
def test_no_bytes_crash_it(junk: bytes) -> None:
    """Whatever comes, it is an answer, a part of one, or an error."""
    connection = receive(junk)
    assert connection.complete or connection.error is not None or not connection.is_reusable


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_a_close_at_every_byte(name: str) -> None:
    """Until the last byte is here it is an error, and what came of the body is handed out."""
    data = ANSWERS[name]
    for place in range(len(data)):
        connection = receive(data[:place])
        connection.connection_lost(None)
        assert isinstance(connection.error, ConnectionError)
        assert not connection.complete
        assert b"hello".startswith(connection.take())


def test_a_pump_is_called_until_the_future_is_due() -> None:
    """For every read, with no turn of the loop between; what breaks after some bytes wakes whoever waits."""

    async def scenario() -> tuple[list[bytes], list[bytes], str]:
        connection = Connection(asyncio.get_running_loop())
        connection.connection_made(Stub())
        connection.send(REQUEST, b"{}")
        taken = list[bytes]()

        def pump() -> bool:
            taken.append(connection.take())
            return taken[-1] == b"enough"

        connection.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        waiter = connection.wait(pump)
        for chunk in (b"3\r\none\r\n", b"3\r\ntwo\r\n", b"6\r\nenough\r\n", b"4\r\nmore\r\n"):
            connection.data_received(chunk)
        before = list(taken)
        await waiter
        waiter = connection.wait(pump)
        assert not waiter.done()
        connection.data_received(b"4\r\nlast\r\nno chunk")
        try:
            await waiter
        except ValueError as exc:
            return before, taken, str(exc)
        return before, taken, ""

    before, taken, error = run(scenario())
    assert before == [b"one", b"two", b"enough"]
    assert taken == [b"one", b"two", b"enough", b"more", b"last"]
    assert "not valid HTTP" in error
