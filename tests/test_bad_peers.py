"""Peers that break off at any byte, on either side of a gateway: nothing is passed off as whole, and nothing leaks."""

import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pytest

import gateway as gateways
from bridgeserver.fakeprovider import FakeProvider, Script
from gateway import BODIES, Gateway

CHAT = "/openai/v1/chat/completions"
BODY = json.dumps(BODIES[CHAT]).encode()
CONTENT = b'{"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
LENGTH = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(CONTENT), CONTENT)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
)


class Upstream:
    """A provider that answers each request with the next of *answers*, and closes if the last byte says so."""

    def __init__(self) -> None:
        self.answers: list[tuple[bytes, bool]] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # The gateway hangs up on some of these answers.
        with suppress(ConnectionError), client, client.makefile("rb") as reader:
            while head := _head(reader):
                length = next(int(line[15:]) for line in head if line.startswith(b"content-length:"))
                reader.read(length)
                answer, closes = self.answers.pop(0)
                client.sendall(answer)
                if closes:
                    return


def _head(reader: BinaryIO) -> list[bytes]:
    """Return the lines of a request's head; none at the end of the connection."""
    lines = list[bytes]()
    while (line := reader.readline()).strip():
        lines.append(line)
    return lines


@contextmanager
def behind_a_gateway(folder: Path) -> Generator[tuple[Upstream, Gateway]]:
    """Run a gateway in front of a provider that breaks."""
    upstream = Upstream()
    gateways.write_config(folder, upstream.url)
    with gateways.running(folder) as gateway:
        yield upstream, gateway
    upstream.close()


def read(gateway: Gateway) -> tuple[int, bytes, bool]:
    """Ask once; return the status, what came of the body, and whether it was whole."""
    with gateway.open(CHAT, BODY) as answer:
        try:
            return answer.status, answer.read(), True
        except http.client.IncompleteRead as broken:
            return answer.status, broken.partial, False
        except ConnectionError:
            return answer.status, b"", False


def test_a_provider_that_closes_at_any_byte(tmp_path: Path) -> None:
    """A 502 before the head is whole, an aborted answer after it, each recorded so, and never the connection again."""
    with behind_a_gateway(tmp_path) as (upstream, gateway):
        asked = 0
        for whole in (LENGTH, CHUNKED):
            head_bytes = whole.index(b"\r\n\r\n") + 4
            for place in range(len(whole)):
                upstream.answers.append((whole[:place], True))
                status, body, is_whole = read(gateway)
                asked += 1
                if place < head_bytes:
                    assert (status, is_whole) == (502, True), place
                    assert json.loads(body)["error"]
                else:
                    assert (status, is_whole) == (200, False), place
                    assert CONTENT.startswith(body)
        assert upstream.connections == asked
        upstream.answers += [(LENGTH, False), (CHUNKED, False)]
        assert [read(gateway) for _ in range(2)] == [(200, CONTENT, True)] * 2
        assert upstream.connections == asked + 1

        def ended() -> list[dict[str, Any]] | None:
            records = gateway.records()
            return records if len(records) == asked + 2 and all(r["status"] != "open" for r in records) else None

        records = gateways.eventually(ended)
        outcomes = [(record["status"], record["error_type"]) for record in records]
        assert outcomes.count(("failed", "upstream_broken")) == asked
        assert outcomes.count(("completed", None)) == 2


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent length: 1\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 502),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 502),
        (LENGTH + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret", 200),
        (LENGTH + b"surplus", 200),
    ],
    ids=["head", "lengths", "huge", "chunk", "second", "more"],
)
def test_a_provider_that_breaks_the_protocol(tmp_path: Path, answer: bytes, status: int) -> None:
    """Its connection is not used again, and no byte of what it said too much reaches anybody."""
    with behind_a_gateway(tmp_path) as (upstream, gateway):
        upstream.answers += [(answer, False), (LENGTH, False)]
        got, body, is_whole = read(gateway)
        assert got == status
        assert b"secret" not in body
        assert b"surplus" not in body
        assert is_whole == (status == 502 or body == CONTENT)
        assert read(gateway) == (200, CONTENT, True)
        assert upstream.connections == 2


def descriptors(gateway: Gateway) -> int:
    """Return how many descriptors the worker has open."""
    (worker,) = gateway.workers()
    return sum(1 for _ in Path(f"/proc/{worker}/fd").iterdir())


def leave(gateway: Gateway, data: bytes, *, reset: bool, until: Callable[[bytes], bool] = lambda _got: True) -> None:
    """Send *data*, read until told otherwise, and be gone."""
    client = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sendall(data)
    received = b""
    while not until(received):
        received += client.recv(1 << 16)
    client.close()


def test_clients_that_leave_at_any_byte_leave_nothing_behind(gateway: Gateway, fake: FakeProvider) -> None:
    """No descriptor, no lease, no running request, wherever in a request or in its answer they stop."""
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
    )
    request = head.encode() + BODY
    stream = request.replace(b'{"model"', b'{"stream":true,"model"').replace(
        f"length: {len(BODY)}".encode(), f"length: {len(BODY) + 14}".encode()
    )
    assert gateway.ask(CHAT, BODIES[CHAT]).status == 200
    before = descriptors(gateway)
    for place in range(len(request) + 1):
        leave(gateway, request[:place], reset=place % 2 == 0)
    for count in range(8):
        fake.push(Script(gate=True))
        leave(gateway, stream, reset=count % 2 == 0, until=lambda got: b"data: " in got)
    fake.release(1000)
    # One connection to the provider may be kept for each request that was answered at once.
    gateways.eventually(lambda: True if descriptors(gateway) <= before + 2 else None)
    key = gateways.make_key(gateway.folder, "admin", is_admin=True)

    def leased() -> list[str]:
        metrics = gateway.ask("/-/metrics", headers={"authorization": f"Bearer {key}"}).body.decode()
        return [line.split()[-1] for line in metrics.splitlines() if line.startswith("bridgecore_pool_leased")]

    gateways.eventually(lambda: True if leased() == ["0.0"] else None)
    assert gateway.ask(CHAT, BODIES[CHAT]).status == 200


def test_pipelined_requests_are_answered_in_order(gateway: Gateway, fake: FakeProvider) -> None:
    """Two requests in one write, the second one refused, are two answers."""
    head = f"host: x\r\nauthorization: Bearer {gateway.key}\r\n"
    first = f"POST {CHAT} HTTP/1.1\r\n{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY
    second = f"GET /nowhere HTTP/1.1\r\n{head}connection: close\r\n\r\n".encode()
    received = gateway.raw(first + second)
    assert received.startswith(b"HTTP/1.1 200")
    assert received.count(b"HTTP/1.1 404") == 1
    assert len(fake.requests) == 1
