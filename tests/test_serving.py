"""The serving side of HTTP/1.1: requests as clients send them, answers as clients see them."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgecore import Reply, Request, Server
from bridgecore.serving import BUFFER_BYTES, MAX_HEAD_BYTES, MAX_PIPELINED
from clientlab import Client, Handler, parse, serve, settle

GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"


def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
    """Run a scenario on a loop of its own."""
    return asyncio.run(scenario())  # type: ignore[arg-type]


async def read(request: Request) -> bytes:
    """Return the body, or what is here of one that broke off."""
    body = request.take()
    while not (request.complete or request.is_broken):
        await request.wait()
        body += request.take()
    return body


async def echo(request: Request, reply: Reply) -> None:
    """Answer with what was understood."""
    body = await read(request)
    reply.whole(200, b"content-type: text/plain\r\n", f"{request.method} {request.path} ".encode() + body)


def converse(handler: Handler, *reads: bytes, **options: Any) -> Client:
    """Send *reads* one after another, let everything settle, and return the client."""

    async def scenario() -> Client:
        server = serve(handler, **options)
        client = Client(server)
        for data in reads:
            client.send(data)
            await settle()
        if not client.wire.end:
            server.abort()
        return client

    client: Client = run(scenario)
    return client


def test_a_request_and_its_answer() -> None:
    """Head, fields and body arrive as they were sent; the answer is one write."""
    seen: list[Request] = []

    async def handler(request: Request, reply: Reply) -> None:
        seen.append(request)
        await echo(request, reply)

    data = b"POST /a/b?c=1 HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two: 2\r\nContent-Length: 4\r\n\r\nbody"
    client = converse(handler, data)
    (request,) = seen
    assert (request.method, request.path, request.query, request.peer) == ("POST", "/a/b", b"c=1", "192.0.2.7")
    assert request.fields == [(b"host", b"x"), (b"x-two", b"1"), (b"x-two", b"2"), (b"content-length", b"4")]
    assert (request.headers[b"x-two"], request.length) == (b"1", 4)
    (write,) = client.wire.writes
    answer = parse(write)
    assert write.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.body == b"POST /a/b body"
    assert set(answer.headers) == {"content-type", "content-length", "date"}


BODY = b"POST /a HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2;ext=1\r\nhe\r\n3\r\nllo\r\n0\r\ntrailer: x\r\n\r\n"


@given(st.sampled_from([BODY, CHUNKED, GET]), st.lists(st.integers(1, 100), max_size=6, unique=True))
def test_any_split_of_a_request_is_the_same_request(data: bytes, cuts: list[int]) -> None:
    """Where one read ends and the next begins makes no difference, and a second request follows the first."""
    data += GET
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    client = converse(echo, *(data[a:b] for a, b in pairwise(places)))
    answers = [parse(write).body for write in client.wire.writes]
    assert answers == [b"GET /a " if data.startswith(b"GET") else b"POST /a hello", b"GET /a "]


@given(st.binary(max_size=60), st.integers(0, len(CHUNKED)))
def test_no_bytes_crash_it(junk: bytes, place: int) -> None:
    """Whatever is sent, each answer is whole and the connection is either usable or ended."""
    client = converse(echo, CHUNKED[:place] + junk + CHUNKED[place:])
    for write in client.wire.writes:
        assert write.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))


def test_a_large_body_passes_by_the_parser() -> None:
    """It arrives whole in pieces of any size, and the next request is found behind it."""
    body = bytes(range(256)) * 2000
    head = b"POST /a HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)
    data = head + body + GET
    step = 70_001
    reads = [data[start : start + step] for start in range(0, len(data), step)]
    client = converse(echo, *reads)
    first, *rest = client.wire.writes
    assert first.endswith(b"POST /a " + body)
    assert [parse(write).body for write in rest] == [b"GET /a "]


def test_a_body_that_nobody_takes_stops_the_reading() -> None:
    """Until it is taken; the rest waits with the client."""

    async def scenario() -> None:
        may_read = asyncio.Event()

        async def handler(request: Request, reply: Reply) -> None:
            await may_read.wait()
            await echo(request, reply)

        server = serve(handler)
        client = Client(server)
        client.send(b"POST /a HTTP/1.1\r\ncontent-length: 900000\r\n\r\n" + bytes(BUFFER_BYTES))
        await settle()
        assert client.wire.reads
        client.send(bytes(1))
        assert not client.wire.reads
        may_read.set()
        await settle()
        assert client.wire.reads
        client.send(bytes(900_000 - BUFFER_BYTES - 1))
        await settle()
        assert len(parse(client.wire.sent).body) == 900_000 + len("POST /a ")
        server.abort()

    run(scenario)


def test_a_body_without_a_length_is_framed_in_chunks() -> None:
    """Each write is one chunk, and one write of the transport; the end comes with the last."""

    async def handler(_request: Request, reply: Reply) -> None:
        reply.start(200, b"")
        reply.write(b"", more=True)
        reply.write(b"one", more=True)
        reply.write(bytes(20_000), more=True)
        reply.write(b"", more=True)
        reply.write(b"two", more=False)

    head, *chunks = converse(handler, GET).wire.writes
    assert b"\r\ntransfer-encoding: chunked\r\n" in head
    assert head.endswith(b"\r\n\r\n")
    assert chunks == [b"3\r\none\r\n", b"4e20\r\n" + bytes(20_000) + b"\r\n", b"3\r\ntwo\r\n0\r\n\r\n"]


def test_an_empty_last_write_ends_the_body() -> None:
    """The last chunk alone, or nothing where the length was said."""

    async def chunked(_request: Request, reply: Reply) -> None:
        reply.start(200, b"")
        reply.write(b"one", more=True)
        reply.write(b"", more=False)

    async def announced(_request: Request, reply: Reply) -> None:
        reply.start(200, b"content-length: 3\r\n")
        reply.write(b"one", more=True)
        reply.write(b"", more=False)

    assert converse(chunked, GET).wire.sent.endswith(b"\r\n\r\n3\r\none\r\n0\r\n\r\n")
    client = converse(announced, GET + GET)
    assert client.wire.sent.count(b"\r\n\r\none") == 2
    assert b"chunked" not in client.wire.sent


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_an_answer_without_a_body(method: bytes, status: int) -> None:
    """To HEAD, and with a status that has none, no byte of a body is sent, and the next answer is read right."""

    async def handler(_request: Request, reply: Reply) -> None:
        reply.start(status, b"content-length: 5\r\n" if status == 200 else b"")
        reply.write(b"never", more=False)

    client = converse(handler, GET.replace(b"GET", method) * 2)
    assert len(client.wire.writes) == 2
    for write in client.wire.writes:
        assert write.endswith(b"\r\n\r\n")
        assert b"never" not in write
        assert b"chunked" not in write


@pytest.mark.parametrize(
    ("request_line", "field", "connection", "end"),
    [
        (b"HTTP/1.1", b"", None, ""),
        (b"HTTP/1.1", b"connection: close\r\n", "close", "close"),
        (b"HTTP/1.0", b"", "close", "close"),
        (b"HTTP/1.0", b"connection: keep-alive\r\n", "keep-alive", ""),
    ],
)
def test_how_long_a_connection_lives(request_line: bytes, field: bytes, connection: str | None, end: str) -> None:
    """As the client asks for, and it is told."""

    async def scenario() -> None:
        server = serve(echo)
        client = Client(server)
        client.send(b"GET /a " + request_line + b"\r\n" + field + b"\r\n")
        await settle()
        assert parse(client.wire.sent).headers.get("connection") == connection
        assert client.wire.end == end
        server.abort()

    run(scenario)


def test_an_old_client_gets_a_body_without_chunks() -> None:
    """Its end is the end of the connection; one that breaks off is reset, because an end would make it look whole."""

    async def whole(_request: Request, reply: Reply) -> None:
        reply.start(200, b"")
        reply.write(b"one", more=True)
        reply.write(b"two", more=False)

    async def broken(_request: Request, reply: Reply) -> None:
        reply.start(200, b"")
        reply.write(b"one", more=True)

    old = b"GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"
    client = converse(whole, old)
    assert client.wire.sent.endswith(b"connection: close\r\n\r\nonetwo")
    assert (client.wire.end, client.wire.was_reset) == ("close", False)
    client = converse(broken, old)
    assert (client.wire.end, client.wire.was_reset) == ("abort", True)


def test_an_answer_that_breaks_off_has_no_end() -> None:
    """What was written is sent, the last chunk is not, and the connection takes nothing more."""

    async def handler(_request: Request, reply: Reply) -> None:
        reply.start(200, b"")
        reply.write(b"half", more=True)

    client = converse(handler, GET + GET)
    assert client.wire.sent.endswith(b"4\r\nhalf\r\n")
    assert client.wire.end == "close"


def test_a_handler_that_answers_nothing_ends_the_connection() -> None:
    """There is nothing that could be said for it."""

    async def handler(_request: Request, _reply: Reply) -> None:
        """Do nothing."""

    client = converse(handler, GET)
    assert (client.wire.sent, client.wire.end) == (b"", "abort")


def test_an_answer_is_begun_once_and_ends_once() -> None:
    """What would break the framing is refused."""
    raised: list[str] = []

    async def handler(_request: Request, reply: Reply) -> None:
        steps: list[Callable[[], None]] = [
            lambda: reply.write(b"", more=True),
            lambda: reply.whole(200, b"", b"x"),
            lambda: reply.start(200, b""),
            lambda: reply.write(b"", more=False),
        ]
        for step in steps:
            try:
                step()
            except RuntimeError as exc:
                raised.append(str(exc))

    client = converse(handler, GET)
    assert len(raised) == 3
    assert client.wire.sent.endswith(b"\r\n\r\nx")


def test_pipelined_requests_are_answered_one_after_another() -> None:
    """In their order, however long the first one takes; meanwhile nothing more is read."""

    async def scenario() -> None:
        may_answer = asyncio.Event()

        async def handler(request: Request, reply: Reply) -> None:
            if request.path == "/slow":
                await may_answer.wait()
            await echo(request, reply)

        server = serve(handler)
        client = Client(server)
        client.send(GET.replace(b"/a", b"/slow") + BODY + GET)
        await settle()
        assert (client.wire.writes, client.wire.reads, server.running) == ([], False, 1)
        may_answer.set()
        await settle()
        bodies = [parse(write).body for write in client.wire.writes]
        assert bodies == [b"GET /slow ", b"POST /a hello", b"GET /a "]
        assert client.wire.reads
        server.abort()

    run(scenario)


def test_more_pipelined_requests_than_anybody_needs_end_the_connection() -> None:
    """The first one is still answered."""

    async def scenario() -> None:
        server = serve(echo)
        client = Client(server)
        client.send(GET * (MAX_PIPELINED + 2))
        await settle()
        assert [parse(write).status for write in client.wire.writes] == [200]
        assert client.wire.end == "close"
        server.abort()

    run(scenario)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /a HTTP/3.0\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET a HTTP/1.1\r\n\r\n",
        b"CONNECT host:443 HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /a HTTP/1.1\r\nbad name: x\r\n\r\n",
        b"GET /a HTTP/1.1\r\nname : x\r\n\r\n",
        b"GET /a HTTP/1.1\r\nx: a\r\n b\r\n\r\n",
        b"GET /a HTTP/1.1\r\nx: a\0b\r\n\r\n",
        b"GET /a HTTP/1.1\nx: a\n\n",
        b"POST /a HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /a HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /a HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /a HTTP/1.1\r\ncontent-length: 1x\r\n\r\n",
        b"POST /a HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
        b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked, gzip\r\n\r\n",
        b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: gzip\r\n\r\n",
    ],
    ids=lambda data: data[:60].decode("latin-1").encode("unicode_escape").decode(),
)
def test_what_is_not_http_is_400(data: bytes) -> None:
    """One answer says why, and nothing of what follows is looked at."""
    seen: list[str] = []

    async def handler(request: Request, reply: Reply) -> None:
        seen.append(request.path)
        await echo(request, reply)

    client = converse(handler, data, GET)
    answer = parse(client.wire.sent)
    assert (answer.status, answer.headers["connection"], seen) == (400, "close", [])
    assert answer.body.startswith(b"the request cannot be read: ")


def test_a_wrong_chunk_breaks_the_body_off() -> None:
    """Its handler is told, and answers; the connection ends with that."""

    async def handler(request: Request, reply: Reply) -> None:
        await read(request)
        reply.whole(400 if request.is_broken else 200, b"", b"")

    client = converse(handler, b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhexx", GET)
    assert parse(client.wire.sent).status == 400
    assert client.wire.sent_eof


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * MAX_HEAD_BYTES,
        b"GET /a HTTP/1.1\r\nx: " + b"a" * MAX_HEAD_BYTES,
        b"GET /a HTTP/1.1\r\n" + b"x: a\r\n" * (MAX_HEAD_BYTES // 6),
    ],
    ids=["target", "value", "fields"],
)
def test_a_head_that_never_ends_is_431(data: bytes) -> None:
    """However it is cut into reads."""
    for step in (1000, len(data)):
        client = converse(echo, *(data[start : start + step] for start in range(0, len(data), step)), b"more")
        assert parse(client.wire.sent).status == 431
        assert client.wire.sent_eof


@pytest.mark.parametrize(
    "data", [b"1;" + b"x" * MAX_HEAD_BYTES, b"0\r\nx: " + b"a" * MAX_HEAD_BYTES], ids=["extension", "trailer"]
)
def test_the_framing_of_a_body_is_bounded(data: bytes) -> None:
    """Extensions and trailers are received for nobody."""

    async def handler(request: Request, reply: Reply) -> None:
        await read(request)
        reply.whole(400 if request.is_broken else 200, b"", b"")

    client = converse(handler, b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", data)
    assert parse(client.wire.sent).status == 400


def test_an_upgrade_is_not_made() -> None:
    """The request is answered as any other, and HTTP/1.1 goes on behind it."""
    upgrade = b"GET /a HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    bodies = [b"content-length: 2\r\n\r\nhi", b"transfer-encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"]
    posts = [b"POST /a HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n" + body for body in bodies]
    data = b"".join([upgrade, *posts, GET])
    for step in (1, 7, len(data)):
        client = converse(echo, *(data[start : start + step] for start in range(0, len(data), step)))
        assert [parse(write).body for write in client.wire.writes] == [
            b"GET /a ",
            b"POST /a hi",
            b"POST /a hi",
            b"GET /a ",
        ]


def test_a_client_that_asks_first_is_told_to_go_on_when_its_body_is_wanted() -> None:
    """Once, and only if it has to wait for that; otherwise its connection ends with the answer."""
    head = b"POST /a HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"

    async def refuse(_request: Request, reply: Reply) -> None:
        reply.whole(413, b"", b"")

    go_on, answer = converse(echo, head, b"hi").wire.writes
    assert go_on == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert parse(answer).body == b"POST /a hi"
    (answer,) = converse(echo, head + b"hi").wire.writes
    assert parse(answer).body == b"POST /a hi"
    client = converse(refuse, head)
    assert [parse(write).status for write in client.wire.writes] == [413]
    assert client.wire.sent_eof


def test_a_refusal_that_comes_early_is_found_by_a_client_that_sends_on() -> None:
    """The rest of the body is read for nobody, and the connection goes on behind it."""

    async def scenario() -> None:
        async def refuse(_request: Request, reply: Reply) -> None:
            reply.whole(401, b"", b"")

        server = serve(refuse)
        client = Client(server)
        client.send(b"POST /a HTTP/1.1\r\ncontent-length: 400000\r\n\r\n" + bytes(300_000))
        await settle()
        assert [parse(write).status for write in client.wire.writes] == [401]
        assert client.wire.reads
        client.send(bytes(100_000) + GET)
        await settle()
        assert [parse(write).status for write in client.wire.writes] == [401, 401]
        assert not client.wire.end
        server.abort()

    run(scenario)


def test_a_body_that_is_not_wanted_is_not_awaited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that announces and does not send loses its connection."""
    monkeypatch.setattr("bridgecore.serving.LINGER_S", 0.0)

    async def refuse(_request: Request, reply: Reply) -> None:
        reply.whole(401, b"", b"")

    async def scenario() -> None:
        server = serve(refuse)
        client = Client(server)
        client.send(b"POST /a HTTP/1.1\r\ncontent-length: 400000\r\n\r\n")
        while not client.wire.end:
            await asyncio.sleep(0)
        assert client.wire.end == "close"
        server.abort()

    run(scenario)


@pytest.mark.parametrize("leave", ["leave", "eof", "in the body"])
def test_a_client_that_leaves_is_noticed(leave: str) -> None:
    """Whoever works for it is told once, at once or when it asks; what is then written goes nowhere."""

    async def scenario() -> None:
        lost: list[str] = []
        told = asyncio.Event()

        async def handler(request: Request, reply: Reply) -> None:
            await read(request)

            def note() -> None:
                lost.append("first")
                told.set()

            request.on_lost(note)
            await told.wait()
            request.on_lost(lambda: lost.append("late"))
            reply.whole(200, b"", b"")
            await reply.drain()

        server = serve(handler)
        client = Client(server)
        client.send(BODY[:-2] if leave == "in the body" else BODY)
        await settle()
        if leave == "eof":
            assert client.connection.eof_received() is False
        client.leave()
        await settle()
        assert lost == ["first", "late"]
        assert (server.running, server.connections) == (0, 0)
        server.abort()

    run(scenario)


def test_a_client_that_leaves_after_its_answer_is_no_loss() -> None:
    """Nobody is told when there is nothing left to do."""

    async def scenario() -> None:
        lost: list[int] = []

        async def handler(request: Request, reply: Reply) -> None:
            request.on_lost(lambda: lost.append(1))
            await echo(request, reply)

        server = serve(handler)
        client = Client(server)
        client.send(GET)
        await settle()
        client.leave()
        assert not lost
        assert server.connections == 0
        server.abort()

    run(scenario)


def test_a_client_that_does_not_read_is_waited_for() -> None:
    """`drain` ends when the transport has room again, or the client is gone."""

    async def scenario() -> None:
        steps: list[str] = []

        async def handler(_request: Request, reply: Reply) -> None:
            reply.start(200, b"")
            for step in ("one", "two"):
                client.connection.pause_writing()
                reply.write(step.encode(), more=True)
                assert reply.is_full
                await reply.drain()
                steps.append(step)

        server = serve(handler)
        client = Client(server)
        client.send(GET)
        await settle()
        assert steps == []
        client.connection.resume_writing()
        await settle()
        assert steps == ["one"]
        client.leave()
        await settle()
        assert steps == ["one", "two"]
        server.abort()

    run(scenario)


def test_a_connection_waits_so_long_for_a_request_and_no_longer() -> None:
    """A head that has begun is told; neither can hold a connection for ever, and a request in time counts anew."""

    async def scenario() -> None:
        server = serve(echo, timeout_s=0.02)
        silent, slow, gone = Client(server), Client(server), Client(server)
        slow.send(GET[:10])
        gone.send(GET)
        while not (silent.wire.end and slow.wire.writes and gone.wire.end):
            await asyncio.sleep(0.001)
        assert silent.wire.sent == b""
        assert parse(slow.wire.sent).status == 408
        assert parse(gone.wire.sent).status == 200
        server.abort()

    run(scenario)


def test_the_longest_idle_connection_gives_way_to_a_new_one() -> None:
    """And where every connection is in use the new one is turned away."""

    async def scenario() -> None:
        may_answer = asyncio.Event()

        async def handler(request: Request, reply: Reply) -> None:
            await may_answer.wait()
            await echo(request, reply)

        server = serve(handler, max_connections=3)
        busy, begun, oldest = Client(server), Client(server), Client(server)
        busy.send(GET)
        begun.send(GET[:10])
        new = Client(server)
        assert [client.wire.end for client in (busy, begun, oldest, new)] == ["", "", "close", ""]
        new.send(GET)
        turned_away = Client(server)
        assert parse(turned_away.wire.sent).status == 503
        assert turned_away.wire.sent_eof
        assert server.connections == 3
        oldest.leave()
        turned_away.leave()
        may_answer.set()
        await settle()
        assert parse(busy.wire.sent).status == parse(new.wire.sent).status == 200
        server.abort()

    run(scenario)


def test_a_server_that_winds_down_ends_connections_with_their_answers() -> None:
    """Idle ones stay until it closes; it is closed when the last request and the last connection have ended."""

    async def scenario() -> None:
        may_answer = asyncio.Event()

        async def handler(request: Request, reply: Reply) -> None:
            await may_answer.wait()
            await echo(request, reply)

        server = serve(handler)
        busy, idle, begun = Client(server), Client(server), Client(server)
        busy.send(GET)
        begun.send(GET[:10])
        server.wind_down()
        await settle()
        assert (server.is_closing, idle.wire.end) == (True, "")
        server.close()
        closed = server.wait_closed()
        assert [client.wire.end for client in (busy, idle, begun)] == ["", "close", ""]
        may_answer.set()
        begun.send(GET[10:])
        await settle()
        for client in (busy, begun):
            assert parse(client.wire.sent).headers["connection"] == "close"
            assert client.wire.end == "close"
        assert not closed.done()
        for client in (busy, idle, begun):
            client.leave()
        await closed

    run(scenario)


def test_aborting_a_server_ends_everything() -> None:
    """For the moment in which nobody waits any more."""

    async def scenario() -> None:
        server = serve(echo)
        clients = [Client(server) for _ in range(3)]
        server.abort()
        assert {client.wire.end for client in clients} == {"abort"}

    run(scenario)


def test_nothing_is_left_of_connections_that_are_gone() -> None:
    """Clients that leave at any byte of a request leave no object behind."""

    def count() -> int:
        gc.collect()
        return sum(isinstance(thing, Request | Reply | Client | asyncio.Task) for thing in gc.get_objects())

    async def come_and_go(server: Server, data: bytes) -> None:
        client = Client(server)
        client.send(data)
        await settle()
        client.leave()
        await settle()

    async def scenario() -> None:
        server = serve(echo)
        before = count()
        for place in range(len(CHUNKED) + 1):
            await come_and_go(server, CHUNKED[:place])
        assert (server.running, server.connections) == (0, 0)
        assert count() == before
        server.abort()

    run(scenario)
