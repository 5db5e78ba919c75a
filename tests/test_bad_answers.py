"""Answers that are not what they say they are, through a running gateway: relayed untouched, and recorded as failed."""

import gzip
from collections.abc import Callable
from typing import NamedTuple

import pytest

from bridgeserver.fakeprovider import FakeProvider, Script
from gateway import BODIES, Gateway

ROUTES = pytest.mark.parametrize("path", BODIES)

WHOLE = {
    "/anthropic/v1/messages": b'{"id":"m","type":"message","content":[],"usage":{"input_tokens":3,"output_tokens":4}}',
    "/openai/v1/chat/completions": b'{"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}',
    "/openai/v1/responses": b'{"id":"r","status":"completed","output":[],"usage":{"input_tokens":3,"output_tokens":4}}',
}
EVENTS = {
    "/anthropic/v1/messages": b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    "/openai/v1/chat/completions": b"data: %b\n\ndata: [DONE]\n\n",
    "/openai/v1/responses": b'event: response.completed\ndata: {"type":"response.completed","response":%b}\n\n',
}
"""What a stream is made of, around the whole answer."""

JSON, STREAM, HTML = b"application/json", b"text/event-stream; charset=utf-8", b"text/html; charset=utf-8"
BROKEN = ("failed", "upstream_broken")
READ = ("completed", None)


def half(body: bytes) -> bytes:
    return body[: len(body) // 2]


def without_the_last_data(body: bytes) -> bytes:
    return body.rpartition(b"\ndata: ")[0]


class Bad(NamedTuple):
    """How an answer is bad: what it says it is, what it is, and what the record says of it."""

    content_type: bytes
    template: bytes
    """`JSON` and `EVENTS` in it stand for what the route's answer would be."""
    outcome: tuple[str, str | None] = BROKEN
    encoding: bytes = b""
    cut: Callable[[bytes], bytes] = bytes
    """What is left of the body."""

    def body(self, path: str) -> bytes:
        """Return the body for a route."""
        events = EVENTS[path] % WHOLE[path]
        body = self.template.replace(b"EVENTS", events).replace(b"JSON", WHOLE[path])
        if self.encoding == b"gzip":
            body = gzip.compress(body, mtime=0)
        return self.cut(body)


BAD = {
    "html": Bad(HTML, b"<html><body>Welcome to the hotel's network</body></html>"),
    "html-as-json": Bad(JSON, b"<html><body>Welcome to the hotel's network</body></html>"),
    "html-as-stream": Bad(STREAM, b"<html><body>Welcome to the hotel's network</body></html>"),
    "cut": Bad(JSON, b"JSON", cut=half),
    "cut-stream": Bad(STREAM, b"EVENTS", cut=without_the_last_data),
    "stream-as-json": Bad(JSON, b"EVENTS"),
    "json-as-stream": Bad(STREAM, b"JSON"),
    "no-object": Bad(JSON, b"[JSON]"),
    "empty": Bad(JSON, b""),
    "empty-stream": Bad(STREAM, b""),
    "gzip": Bad(JSON, b"JSON", READ, b"gzip"),
    "gzip-stream": Bad(STREAM, b"EVENTS", READ, b"gzip"),
    "gzip-cut": Bad(JSON, b"JSON", BROKEN, b"gzip", cut=half),
    "gzip-of-html": Bad(JSON, b"<html></html>", BROKEN, b"gzip"),
    "gzip-not-said": Bad(JSON, gzip.compress(b"{}", mtime=0)),
    "no-gzip": Bad(JSON, b"JSON", BROKEN, b"GZIP"),
}


@ROUTES
@pytest.mark.parametrize("name", BAD)
def test_a_bad_200(gateway: Gateway, fake: FakeProvider, path: str, name: str) -> None:
    """Whatever comes with a 200 reaches the client as it came, and counts as an answer only if it is one."""
    bad = BAD[name]
    body = bad.body(path)
    encoding = b"content-encoding: %b\r\n" % bad.encoding if bad.encoding else b""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%bcontent-length: %d\r\n\r\n" % (
        bad.content_type,
        encoding,
        len(body),
    )
    fake.push(Script(raw=(head + body,)))
    answer = gateway.ask(path, BODIES[path] | {"stream": bad.content_type == STREAM})
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["content-type"] == bad.content_type.decode()
    assert answer.headers.get("content-encoding", "") == bad.encoding.decode()
    record = gateway.record(answer.headers["x-bridge-interception-id"])
    assert (record["status"], record["error_type"]) == bad.outcome
    assert record["output_tokens"] == 4 or bad.outcome != READ
    assert record["http_status"] == 200
    assert gateway.ask(path, BODIES[path]).status == 200


@ROUTES
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect(gateway: Gateway, fake: FakeProvider, path: str, status: int) -> None:
    """It could lead the central key anywhere, so the client sees it, nobody follows it, and no answer came of it."""
    head = f"HTTP/1.1 {status} Moved\r\nlocation: {fake.url}/elsewhere\r\ncontent-length: 5\r\n\r\nmoved"
    fake.push(Script(raw=(head.encode(),)))
    answer = gateway.ask(path, BODIES[path])
    assert (answer.status, answer.body, answer.headers["location"]) == (status, b"moved", f"{fake.url}/elsewhere")
    assert len(fake.requests) == 1
    record = gateway.record(answer.headers["x-bridge-interception-id"])
    assert (record["status"], record["http_status"], record["error_type"]) == ("failed", status, "unknown")
