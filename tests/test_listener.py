"""The parent's own address: what it answers, whom, and how it keeps others from taking it up."""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from bridgeserver import listener as listeners
from bridgeserver.asks import Answer, Ask
from bridgeserver.errors import BridgeError
from bridgeserver.listener import Listener
from gateway import eventually


class Parent:
    """Answers everything the same way, when it is let."""

    def __init__(self) -> None:
        self.asked: list[Ask] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def answer(self, ask: Ask) -> Answer:
        """Write down what was asked."""
        self.asked.append(ask)
        assert self.may_answer.wait(30)
        return Answer(503, b'{"ready":false}')


@pytest.fixture
def parent() -> Parent:
    """A parent that has been asked nothing."""
    return Parent()


@pytest.fixture
def listener(parent: Parent) -> Iterator[Listener]:
    """A listener on a loopback address."""
    made = Listener("127.0.0.1", 0, parent.answer, None)
    made.start()
    yield made
    parent.may_answer.set()
    made.close()


def ask(listener: Listener, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    """Send a request and return the answer."""
    connection = http.client.HTTPConnection(*listener.address, timeout=30)
    connection.request(method, path)
    with connection.getresponse() as got:
        answer = got.status, {name.lower(): value for name, value in got.getheaders()}, got.read()
    connection.close()
    return answer


@pytest.mark.parametrize("path", ["/-/readyz", "/-/metrics"])
def test_it_answers_what_the_parent_says(listener: Listener, parent: Parent, path: str) -> None:
    """Status and body are the parent's; no key is asked for, and none is looked at."""
    status, fields, body = ask(listener, "GET", path)
    assert (status, body, fields["cache-control"]) == (503, b'{"ready":false}', "no-store")
    assert ask(listener, "HEAD", f"{path}?x=y")[2] == b""
    assert parent.asked == [Ask("GET", path, "", b"", "admin_listen", is_admin=True)] * 2


def test_health_needs_no_answer(listener: Listener, parent: Parent) -> None:
    """It is given by the listener itself, also while the parent thinks about something else."""
    parent.may_answer.clear()
    scrape = threading.Thread(target=ask, args=(listener, "GET", "/-/metrics"))
    scrape.start()
    eventually(lambda: True if parent.asked else None)
    assert ask(listener, "GET", "/-/healthz")[::2] == (200, b"ok\n")
    parent.may_answer.set()
    scrape.join(30)
    assert not scrape.is_alive()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/-/api/v1/providers", 404),
        ("GET", "/", 404),
        ("GET", "/-/metrics/", 404),
        ("GET", "/-/../-/metrics", 404),
        ("POST", "/anthropic/v1/messages", 404),
        ("POST", "/-/metrics", 405),
        ("DELETE", "/-/healthz", 405),
    ],
)
def test_there_is_nothing_else(listener: Listener, parent: Parent, method: str, path: str, status: int) -> None:
    """Nothing that changes anything, and nothing of the API."""
    found, fields, body = ask(listener, method, path)
    assert found == status
    assert json.loads(body)["error"]["message"]
    assert fields.get("allow") == ("GET, HEAD" if status == 405 else None)
    assert not parent.asked


def drip(listener: Listener, *pieces: bytes) -> bytes:
    """Send bytes, wait until the other side ends the connection, and return what it has said."""
    with socket.create_connection(listener.address, timeout=30) as client:
        for piece in pieces:
            client.sendall(piece)
        received = b""
        try:
            while chunk := client.recv(1 << 16):
                received += chunk
        except ConnectionResetError:
            pass
        return received


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, parent: Parent) -> Iterator[Callable[[], Listener]]:
    """Make a listener that is soon out of patience, with room for two connections."""
    monkeypatch.setattr(listeners, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(listeners, "MAX_CONNECTIONS", 2)
    made = Listener("127.0.0.1", 0, parent.answer, None)
    made.start()
    yield lambda: made
    made.close()


def test_whoever_dawdles_is_told_to_go(short: Callable[[], Listener]) -> None:
    """One who sends nothing, one who sends half a head, and one who keeps a connection for later."""
    listener = short()
    assert drip(listener) == b""
    assert b" 408 " in drip(listener, b"GET /-/metrics HTTP/1.1\r\nhost: x\r\n")
    assert b" 200 " in drip(listener, b"GET /-/healthz HTTP/1.1\r\nhost: x\r\n\r\n")


def test_many_connections_do_not_lock_others_out(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest idle ones are closed for those who ask."""
    del monkeypatch
    idle = [socket.create_connection(listener.address) for _ in range(3 * listeners.MAX_CONNECTIONS)]
    try:
        assert ask(listener, "GET", "/-/healthz")[0] == 200
    finally:
        for client in idle:
            client.close()


def test_a_long_head_is_refused(listener: Listener) -> None:
    """No scraper needs one."""
    assert b" 431 " in drip(
        listener, b"GET /-/metrics HTTP/1.1\r\nconnection: close\r\nx: " + b"y" * 20_000 + b"\r\n\r\n"
    )


def test_a_taken_address(listener: Listener, parent: Parent) -> None:
    """It is named, with the option that chooses another."""
    host, port = listener.address
    with pytest.raises(
        BridgeError, match=rf"cannot listen on {host}:{port}: .*; choose another \[server\] admin_listen"
    ):
        Listener(host, port, parent.answer, None)


def test_with_tls(parent: Parent) -> None:
    """The address speaks what the gateway does."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)  # pyright: ignore[reportUnknownMemberType]
    authority.configure_trust(client)  # pyright: ignore[reportUnknownMemberType]
    made = Listener("127.0.0.1", 0, parent.answer, server)
    made.start()
    connection = http.client.HTTPSConnection("localhost", made.address[1], timeout=30, context=client)
    connection.request("GET", "/-/healthz")
    assert connection.getresponse().read() == b"ok\n"
    connection.close()
    made.close()


def test_it_ends_before_it_began(parent: Parent) -> None:
    """A start that failed leaves no socket behind."""
    made = Listener("::1" if _has_ipv6() else "127.0.0.1", 0, parent.answer, None)
    made.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(made.address)


def _has_ipv6() -> bool:
    return Path("/proc/net/if_inet6").exists()
