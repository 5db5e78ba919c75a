"""The connections to one origin: reuse, the one re-send, limits and failures."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trustme

from bridgecore import Connection
from bridgeserver.errors import BadResponse, NotRecordable, Overloaded, Unreachable, UpstreamTimeout
from bridgeserver.upstream import Limits, Origin, Upstream
from rawserver import Handler, answering, raw_server, read_request
from test_http1 import run

HEAD = b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LIMITS = Limits(connections=2, wait_s=0.2, connect_timeout_s=0.2)


async def drained(connection: Connection) -> bytes:
    """Return the rest of the body."""
    body = connection.take()
    while not connection.complete:
        await connection.wait()
        body += connection.take()
    return body


async def fetch(upstream: Upstream) -> tuple[bytes, int]:
    """Make one request; return the body and how often it was sent."""
    with upstream.exchange() as exchange:
        connection = await exchange.send(HEAD, b"{}")
        return await drained(connection), exchange.attempts


def with_upstream(
    handler: Handler, scenario: Callable[[Upstream], Awaitable[object]], limits: Limits = LIMITS
) -> object:
    """Run *scenario* with the connections to a server that runs *handler*."""

    async def body() -> object:
        async with raw_server(handler) as port:
            upstream = Upstream(Origin("http", "127.0.0.1", port), limits)
            try:
                return await scenario(upstream)
            finally:
                upstream.close()

    return run(body())


def test_one_connection_serves_requests_in_turn() -> None:
    """A connection that was given back serves the next request."""
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await answering(OK, OK, OK)(reader, writer)

    async def scenario(upstream: Upstream) -> object:
        return [await fetch(upstream) for _ in range(3)]

    assert with_upstream(handler, scenario) == [(b"ok", 1)] * 3
    assert connections == 1


def test_sends_once_more_when_a_kept_connection_had_closed() -> None:
    """The peer closes idle connections at will; a request that met one is sent again on a new one."""
    requests = list[int]()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_first = not requests
        for _ in range(2):
            if not await read_request(reader):
                return
            requests.append(len(requests))
            if is_first and len(requests) == 2:
                writer.close()
                return
            writer.write(OK)

    async def scenario(upstream: Upstream) -> object:
        return [await fetch(upstream), await fetch(upstream)]

    assert with_upstream(handler, scenario) == [(b"ok", 1), (b"ok", 2)]
    assert len(requests) == 3


def test_never_sends_again_on_a_new_connection_or_after_a_byte() -> None:
    """What a provider may have worked on is not repeated behind the client's back."""
    requests = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await read_request(reader)
        requests += 1
        if requests == 1:
            writer.write(OK)
            await read_request(reader)
            requests += 1
            writer.write(b"HTTP/1.1 2")
        writer.close()

    async def scenario(upstream: Upstream) -> object:
        await fetch(upstream)
        for _ in range(2):
            with pytest.raises(BadResponse, match="closed the connection before it answered"):
                await fetch(upstream)
        return None

    with_upstream(handler, scenario)
    assert requests == 3


def test_refuses_when_no_connection_comes_free() -> None:
    """At the limit a request waits its time and is then refused; one that is given back serves the next."""

    async def scenario(upstream: Upstream) -> object:
        with upstream.exchange() as one, upstream.exchange() as two:
            await one.send(HEAD, b"{}")
            second = await two.send(HEAD, b"{}")
            with pytest.raises(Overloaded, match=r"all 2 connections to http://127.0.0.1:\d+ are in use"):
                await fetch(upstream)
            waiting = asyncio.create_task(fetch(upstream))
            await asyncio.sleep(0)
            await drained(second)
            two.__exit__(None, None, None)
            return await waiting

    assert with_upstream(answering(OK, OK), scenario) == (b"ok", 1)


def test_a_cancelled_waiter_leaves_its_turn_to_the_next() -> None:
    """Cancelling one that waits takes nothing from those behind it."""

    async def scenario(upstream: Upstream) -> object:
        with upstream.exchange() as one:
            first = await one.send(HEAD, b"{}")
            await drained(first)
            waiting = [asyncio.create_task(fetch(upstream)) for _ in range(2)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            one.__exit__(None, None, None)
            return (await asyncio.gather(*waiting, return_exceptions=True))[1]

    assert with_upstream(answering(OK, OK), scenario, LIMITS._replace(connections=1)) == (b"ok", 1)


def test_leaving_early_closes_the_connection() -> None:
    """A response that was not read to its end closes its connection at once."""
    closed = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nab")
        await reader.read()
        closed.set()

    async def scenario(upstream: Upstream) -> object:
        with upstream.exchange() as exchange:
            await exchange.send(HEAD, b"{}")
        await closed.wait()
        return None

    with_upstream(handler, scenario)
    assert closed.is_set()


def test_names_an_upstream_that_refuses() -> None:
    """A refused connection says where to and why."""

    async def scenario() -> None:
        async with raw_server(answering()) as port:
            pass
        with pytest.raises(Unreachable, match=rf"cannot connect to http://127.0.0.1:{port}: Connection refused"):
            await fetch(Upstream(Origin("http", "127.0.0.1", port), LIMITS))

    run(scenario())


def test_gives_up_on_a_connection_that_takes_too_long() -> None:
    """A peer that accepts no connection in time is a timeout, not an unreachable host."""

    async def scenario() -> None:
        async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        async with raw_server(silent) as port:
            # A TLS handshake that the peer never answers.
            with pytest.raises(UpstreamTimeout, match=r"within 0\.2 s"):
                await fetch(Upstream(Origin("https", "127.0.0.1", port), LIMITS))

    run(scenario())


def test_checks_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS works with a certificate that the system trusts, and is refused with any other."""
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate: Any = authority.issue_cert("127.0.0.1")
    certificate.configure_cert(server_context)

    async def scenario() -> tuple[bytes, str]:
        async with raw_server(answering(OK), server_context) as port:
            origin = Origin("https", "127.0.0.1", port)
            with pytest.raises(Unreachable) as refused:
                await fetch(Upstream(origin, LIMITS._replace(connect_timeout_s=5)))
            with authority.cert_pem.tempfile() as trusted:
                monkeypatch.setenv("SSL_CERT_FILE", trusted)
                upstream = Upstream(origin, LIMITS._replace(connect_timeout_s=5))
                body, _attempts = await fetch(upstream)
                upstream.close()
        return body, str(refused.value)

    body, refusal = run(scenario())
    assert body == b"ok"
    assert "certificate verify failed" in refusal


def test_connections_are_handed_over_in_order() -> None:
    """Who has waited longest is next, whoever asks in the same moment, and a later one never overtakes."""
    order = list[str]()

    async def scenario(upstream: Upstream) -> object:
        async def ask(name: str) -> None:
            await fetch(upstream)
            order.append(name)

        with upstream.exchange() as one:
            await drained(await one.send(HEAD, b"{}"))
            waiting = [asyncio.create_task(ask(name)) for name in ("first", "second", "third")]
            await asyncio.sleep(0)
            one.__exit__(None, None, None)
            # The connection is on its way to the first, so this one has to wait behind the third.
            late = asyncio.create_task(ask("late"))
        await asyncio.gather(*waiting, late)
        return order

    limits = LIMITS._replace(connections=1, wait_s=10)
    assert with_upstream(answering(*[OK] * 5), scenario, limits) == ["first", "second", "third", "late"]


def test_one_that_is_cancelled_as_its_turn_comes_hands_it_on() -> None:
    """Nothing is lost between being called and going."""

    async def scenario(upstream: Upstream) -> object:
        with upstream.exchange() as one:
            await drained(await one.send(HEAD, b"{}"))
            called, following = (asyncio.create_task(fetch(upstream)) for _ in range(2))
            await asyncio.sleep(0)
            one.__exit__(None, None, None)
            called.cancel()
            return (await asyncio.gather(called, following, return_exceptions=True))[1]

    limits = LIMITS._replace(connections=1, wait_s=10)
    assert with_upstream(answering(OK, OK), scenario, limits) == (b"ok", 1)


def test_the_place_of_a_lost_connection_is_handed_on_too() -> None:
    """One that waits makes a new connection when an old one breaks."""

    async def scenario(upstream: Upstream) -> object:
        with upstream.exchange() as one:
            await one.send(HEAD, b"{}")
            waiting = asyncio.create_task(fetch(upstream))
            await asyncio.sleep(0)
        return await waiting  # the answer was not read to its end, so that connection is gone

    half = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no"
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await answering(half if connections == 1 else OK)(reader, writer)

    limits = LIMITS._replace(connections=1, wait_s=10)
    assert with_upstream(handler, scenario, limits) == (b"ok", 1)
    assert connections == 2


def test_an_idle_connection_that_the_peer_closes_is_forgotten() -> None:
    """It is not found by the next request, which is sent once."""

    async def scenario(upstream: Upstream) -> object:
        await fetch(upstream)
        connection = upstream.idle_connection()
        assert connection is not None
        upstream.release(connection)
        while connection.error is None:
            await asyncio.sleep(0.001)
        assert upstream.idle_connection() is None
        return await fetch(upstream)

    assert with_upstream(answering(OK, close=True), scenario) == (b"ok", 1)


def test_a_tls_session_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second connection to a host offers the session of the first, with ALPN for HTTP/1.1."""
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.set_alpn_protocols(["http/1.1"])
    certificate: Any = authority.issue_cert("127.0.0.1")
    certificate.configure_cert(server_context)
    seen = list[tuple[bool, str | None]]()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        seen.append((tls.session_reused, tls.selected_alpn_protocol()))
        await answering(OK)(reader, writer)

    async def scenario() -> None:
        async with raw_server(handler, server_context) as port:
            with authority.cert_pem.tempfile() as trusted:
                monkeypatch.setenv("SSL_CERT_FILE", trusted)
                upstream = Upstream(Origin("https", "127.0.0.1", port), LIMITS._replace(connect_timeout_s=5))
                for _ in range(2):
                    assert await fetch(upstream) == (b"ok", 1)
                    connection = upstream.idle_connection()
                    assert connection is not None
                    connection.abort()

    run(scenario())
    assert seen == [(False, "http/1.1"), (True, "http/1.1")]


def test_a_request_whose_sender_has_left_is_not_sent() -> None:
    """What had to happen first has happened, but nobody waits for the answer any more."""

    async def scenario(upstream: Upstream) -> tuple[int, bytes]:
        await fetch(upstream)
        with upstream.exchange() as exchange:
            exchange.prepare(HEAD, b"{}")
            waiting = asyncio.create_task(exchange.answered())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            exchange.start()
            attempts = exchange.attempts
        body, _attempts = await fetch(upstream)  # the connection was left alone
        return attempts, body

    assert with_upstream(answering(OK, OK), scenario) == (0, b"ok")


def test_a_request_is_sent_at_once_when_it_may_be() -> None:
    """On a connection that is at hand, before its task runs again; and a failure reaches the one who waits."""

    async def scenario(upstream: Upstream) -> tuple[int, bytes]:
        await fetch(upstream)
        with upstream.exchange() as exchange:
            exchange.prepare(HEAD, b"{}")
            waiting = asyncio.create_task(exchange.answered())
            await asyncio.sleep(0)
            exchange.start()
            attempts = exchange.attempts
            body = await drained(await waiting)
        with upstream.exchange() as failing:
            failing.start(NotRecordable("no room"))
            with pytest.raises(NotRecordable, match="no room"):
                await failing.answered()
            assert failing.attempts == 0
        return attempts, body

    assert with_upstream(answering(OK, OK), scenario) == (1, b"ok")
