"""One client connection: requests in, deliveries out, one after the other."""

import asyncio
from typing import Protocol, cast

import httptools

from bridgeserver.fakeprovider.delivery import Delivery, Gate
from bridgeserver.fakeprovider.plan import Plan
from bridgeserver.fakeprovider.received import Received

_MALFORMED = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Host(Protocol):
    """What a connection needs of its server."""

    gate: Gate

    def opened(self, connection: "Connection") -> int:
        """Take note of a connection and return its number."""
        ...

    def lost(self, connection: "Connection") -> None: ...

    def plan(self, received: Received, *, is_http_1_0: bool, closes: bool) -> Plan: ...

    def ended(self, received: Received) -> None:
        """Nothing more will be sent for this request."""
        ...


class Connection(asyncio.Protocol):
    """Reads with httptools, which calls the `on_` methods."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._parser = httptools.HttpRequestParser(self)
        self._delivery: Delivery | None = None
        self._number = 0
        self.on_message_begin()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._number = self._host.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._host.lost(self)
        if self._delivery:
            self._delivery.abandon(by_client=True)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # declined: the request was answered as if it had not asked
        except httptools.HttpParserError:
            self._transport.write(_MALFORMED)
            self._transport.close()

    def pause_writing(self) -> None:
        if self._delivery:
            self._delivery.pause()

    def resume_writing(self) -> None:
        if self._delivery:
            self._delivery.resume()

    def drop(self) -> None:
        """End the connection from this side."""
        if self._delivery:
            self._delivery.abandon(by_client=False)
        self._transport.abort()

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        if name.lower() == b"expect" and value.lower() == b"100-continue":
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._delivery:  # pipelining, which no client of these APIs does
            self.drop()
            return
        parser = self._parser
        method, target = parser.get_method().decode(), self._target.decode("latin-1")
        received = Received(method, target, self._headers, b"".join(self._body), self._number)
        plan = self._host.plan(
            received,
            is_http_1_0=parser.get_http_version() == "1.0",
            closes=parser.should_upgrade() or not parser.should_keep_alive(),
        )

        def on_end() -> None:
            self._delivery = None
            self._host.ended(received)

        self._delivery = Delivery(plan, received, self._transport, self._host.gate, on_end)
        self._delivery.start()
