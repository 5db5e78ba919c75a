"""What passes through a running gateway: bytes, events, headers, in both directions."""

import gzip
import json
import socket
import sys

import pytest

from bridgeserver.fakeprovider import FakeProvider, Script
from gateway import BODIES, Gateway

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STREAMS = {path: body | {"stream": True} for path, body in BODIES.items()}
ROUTES = pytest.mark.parametrize("path", BODIES)
MODES = pytest.mark.parametrize("stream", [False, True], ids=["blocking", "streaming"])


@ROUTES
@MODES
def test_bodies_pass_byte_for_byte(gateway: Gateway, fake: FakeProvider, path: str, stream: bool) -> None:
    """Odd white space, unknown members, escapes and duplicate keys reach the provider as they were sent."""
    fields = json.dumps(BODIES[path] | {"stream": stream, "stream_options": {"include_usage": True}})
    body = b' {\n\t"x-unknown" : [1e400, -0.0, "\\u00e9\\ud83d\\ude00"], "a":1, "a":2,' + fields[1:].encode() + b"\r\n "
    answer = gateway.ask(path, body)
    request = fake.requests[-1]
    assert answer.status == 200
    assert request.body == body
    assert answer.body == request.response
    assert answer.body


@ROUTES
def test_a_200_event_stream_is_equal_byte_for_byte(gateway: Gateway, fake: FakeProvider, path: str) -> None:
    """What the client reads is what the provider wrote; only the usage that we asked for is taken out."""
    fake.push(Script(text="word " * 200, events=200))
    answer = gateway.ask(path, STREAMS[path] | {"stream_options": {"include_usage": True}})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body == fake.requests[-1].response
    assert answer.body.count(b"\n\n") >= 200


@ROUTES
def test_the_first_event_arrives_before_the_second_is_sent(gateway: Gateway, fake: FakeProvider, path: str) -> None:
    """An event is relayed when it arrives, not when the next one does."""
    fake.push(Script(gate=True))
    with gateway.open(path, STREAMS[path]) as response:
        first = response.read1()
        assert first.endswith(b"\n\n")
        assert first == fake.requests[-1].response
        fake.release(1000)
        assert response.read()


def test_usage_is_asked_for_and_taken_out_again(gateway: Gateway, fake: FakeProvider) -> None:
    """A client that did not ask for usage gets the stream without the chunk that holds nothing else."""
    path = "/openai/v1/chat/completions"
    body = b'{ "model":"m","stream":true, "messages":[{"role":"user","content":"hi"}]}'
    answer = gateway.ask(path, body)
    request = fake.requests[-1]
    assert request.body == b'{"stream_options":{"include_usage":true},' + body[1:]
    events = request.response.split(b"\n\n")
    extra = [event for event in events if b'"choices":[]' in event.replace(b" ", b"")]
    assert len(extra) == 1
    assert answer.body == request.response.replace(extra[0] + b"\n\n", b"")
    assert gateway.record(answer.headers["x-bridge-interception-id"])["output_tokens"] > 0


def test_client_headers_and_query_pass(gateway: Gateway, fake: FakeProvider) -> None:
    """What a provider understands reaches it; what belongs to the gateway or to this hop does not."""
    headers = {
        "anthropic-beta": "one-2025-01-01, two-2025-02-02",
        "anthropic-version": "2023-06-01",
        "user-agent": "claude-cli/2.0",
        "x-stainless-lang": "python",
        "accept": "application/json",
        "accept-encoding": "gzip, br",
        "cookie": "session=1",
        "forwarded": "for=1.2.3.4",
        "x-forwarded-for": "1.2.3.4",
        "x-bridge-anything": "1",
        "x-coder-anything": "1",
        "x-ai-bridge-actor-id": "root",
        "connection": "keep-alive, x-nominated",
        "x-nominated": "1",
        "te": "trailers",
        "openai-organization": "org-of-somebody",
    }
    gateway.ask("/anthropic/v1/messages?beta=true&x=%20y", BODIES["/anthropic/v1/messages"], headers=headers)
    request = fake.requests[-1]
    sent = {name.lower(): value for name, value in request.headers}
    kept = ("anthropic-beta", "anthropic-version", "user-agent", "x-stainless-lang", "accept")
    assert {name: sent.pop(name) for name in kept} == {name: headers[name] for name in kept}
    assert request.target.endswith("/v1/messages?beta=true&x=%20y")
    assert sent.pop("x-api-key") == "central-anthropic-key"
    assert sent.pop("host") == fake.url.removeprefix("http://")
    assert sent.pop("accept-encoding") == "identity"
    assert sent.pop("content-type") == "application/json"
    assert int(sent.pop("content-length")) == len(request.body)
    assert sent == {}


@ROUTES
def test_response_headers_come_back(gateway: Gateway, path: str) -> None:
    """Request ids and rate limits reach the client, cookies and hop-by-hop fields do not; ours is added."""
    answer = gateway.ask(path, BODIES[path])
    assert any("request-id" in name for name in answer.headers)
    assert any("ratelimit" in name for name in answer.headers)
    assert "set-cookie" not in answer.headers
    assert "keep-alive" not in answer.headers
    assert answer.headers["x-bridge-interception-id"]


@pytest.mark.parametrize(
    ("path", "upstream"),
    [
        ("/anthropic/v1/models", "/v1/models"),
        ("/anthropic/v1/models/claude-x?after=1", "/v1/models/claude-x?after=1"),
        ("/openai/v1/models", "/v1/models"),
        ("/openai/v1/models/ft:gpt%3A1", "/v1/models/ft:gpt%3A1"),
    ],
)
def test_passthrough_routes(gateway: Gateway, fake: FakeProvider, path: str, upstream: str) -> None:
    """The whitelist passes as it is, with the central key, and is not recorded."""
    before = gateway.count_recorded()
    answer = gateway.ask(path)
    request = fake.requests[-1]
    assert answer.status == 200
    assert answer.body == request.response
    assert request.target == upstream
    assert "x-bridge-interception-id" not in answer.headers
    assert gateway.count_recorded() == before + 1


def test_count_tokens_and_head_pass(gateway: Gateway, fake: FakeProvider) -> None:
    """Other methods and bodies pass as well."""
    body = b'{"model":"m", "messages":[{"role":"user","content":"hi"}]}'
    assert gateway.ask("/anthropic/v1/messages/count_tokens", body).json["input_tokens"] > 0
    assert fake.requests[-1].body == body
    answer = gateway.ask("/openai/v1/models", method="HEAD")
    assert (answer.status, answer.body, fake.requests[-1].method) == (200, b"", "HEAD")


def test_an_encoded_answer_is_relayed_untouched(gateway: Gateway, fake: FakeProvider) -> None:
    """An answer that is compressed all the same passes as it is, and is accounted for."""
    fake.push(Script(encoding="gzip"))
    answer = gateway.ask("/anthropic/v1/messages", BODIES["/anthropic/v1/messages"])
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.body == fake.requests[-1].response
    assert gzip.decompress(answer.body)
    assert gateway.record(answer.headers["x-bridge-interception-id"])["output_tokens"] > 0


def test_a_body_of_several_gzip_streams_is_read_whole(gateway: Gateway, fake: FakeProvider) -> None:
    """A gzip body may be several streams, one after the other."""
    plain = json.dumps(BODIES["/openai/v1/responses"] | {"model": "in-two-parts"}).encode()
    body = gzip.compress(plain[:20]) + gzip.compress(plain[20:])
    answer = gateway.ask("/openai/v1/responses", body, headers={"content-encoding": "gzip"})
    assert fake.requests[-1].body == body
    assert gateway.record(answer.headers["x-bridge-interception-id"])["model"] == "in-two-parts"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_an_encoded_request_is_read_and_relayed_untouched(gateway: Gateway, fake: FakeProvider, encoding: str) -> None:
    """A compressed body is read for its facts only."""
    plain = json.dumps(BODIES["/openai/v1/responses"] | {"model": "packed"}).encode()
    body = compressed(plain, encoding)
    answer = gateway.ask("/openai/v1/responses", body, headers={"content-encoding": encoding})
    assert fake.requests[-1].body == body
    assert gateway.record(answer.headers["x-bridge-interception-id"])["model"] == "packed"


@pytest.mark.parametrize(
    ("path", "body", "encoding", "status"),
    [
        ("/openai/v1/responses", b"{}", "br", 415),
        ("/openai/v1/responses", b"not gzip", "gzip", 400),
        ("/openai/v1/responses", gzip.compress(b"{}")[:-5], "gzip", 400),
        ("/openai/v1/responses", gzip.compress(bytes(8 << 20)), "gzip", 413),
        ("/openai/v1/responses", gzip.compress(b"{}") + b"more", "gzip", 400),
    ],
    ids=["br", "wrong", "cut", "bomb", "garbage"],
)
def test_encodings_that_cannot_be_read_are_refused(
    gateway: Gateway, fake: FakeProvider, path: str, body: bytes, encoding: str, status: int
) -> None:
    """Nothing is forwarded whose facts cannot be read."""
    assert gateway.ask(path, body, headers={"content-encoding": encoding}).status == status
    assert not fake.requests


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_an_encoded_request_that_has_to_be_edited_is_sent_as_it_is(
    gateway: Gateway, fake: FakeProvider, encoding: str
) -> None:
    """A Chat stream has to be asked for its usage, which cannot be done inside of an encoding."""
    path = "/openai/v1/chat/completions"
    plain = json.dumps(STREAMS[path]).encode()
    answer = gateway.ask(path, compressed(plain, encoding), headers={"content-encoding": encoding})
    assert answer.status == 200
    request = fake.requests[-1]
    assert json.loads(request.body) == STREAMS[path] | {"stream_options": {"include_usage": True}}
    assert request.body.endswith(plain[1:])
    assert "content-encoding" not in {name.lower() for name, _value in request.headers}


def test_gw_h23_keeps_upstream_connections(gateway: Gateway, fake: FakeProvider) -> None:
    """Two requests in turn share one upstream connection."""
    for _ in range(2):
        gateway.ask("/anthropic/v1/models")
    assert len({request.connection for request in fake.requests}) == 1


def test_a_slow_upstream_with_a_chunked_body_and_expect(gateway: Gateway, fake: FakeProvider) -> None:
    """A client may send its body in chunks and ask first; the provider gets one whole body."""
    body = json.dumps(BODIES["/anthropic/v1/messages"]).encode()
    head = (
        f"POST /anthropic/v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
        "transfer-encoding: chunked\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(head)
        assert client.recv(64).startswith(b"HTTP/1.1 100 Continue")
        for at in range(0, len(body), 10):
            piece = body[at : at + 10]
            client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.sendall(b"0\r\n\r\n")
        received = b""
        while chunk := client.recv(1 << 16):
            received += chunk
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert fake.requests[-1].body == body
    assert "expect" not in {name.lower() for name, _value in fake.requests[-1].headers}


def compressed(data: bytes, encoding: str) -> bytes:
    """Return *data* in that content encoding."""
    if encoding == "gzip":
        return gzip.compress(data)
    return zstd.compress(data)
