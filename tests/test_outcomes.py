"""What is recorded of a request through a running gateway, however it ends."""

import http.client
import json
import socket
import struct
from typing import Any

import pytest

import commandlab
import gateway as gateways
from bridgeserver.fakeprovider import FakeProvider, Fault, Script, ToolCall
from gateway import BODIES, Answer, Gateway

MESSAGES, CHAT, RESPONSES = BODIES
ROUTES = pytest.mark.parametrize("path", BODIES)
MODES = pytest.mark.parametrize("stream", [False, True], ids=["blocking", "streaming"])
PROTOCOL_NAMES = {MESSAGES: "anthropic", CHAT: "openai", RESPONSES: "openai"}

FULL = Script(
    text="Here is the file.",
    thinking="The user wants the file.",
    tools=(
        ToolCall("read_file", '{"path": "foo"}'),
        ToolCall("list_files", "{}"),
    ),
    input_tokens=2,
    output_tokens=61,
    cache_read_tokens=13993,
    cache_write_tokens=22,
)


def interception_id(answer: Answer) -> str:
    """Return the id that the gateway gave the request."""
    return answer.headers["x-bridge-interception-id"]


@ROUTES
@MODES
def test_tokens_thinking_and_tools_are_recorded(gateway: Gateway, fake: FakeProvider, path: str, stream: bool) -> None:
    """The record has the fields of the documented JSON, with the provider's final numbers, cached tokens apart."""
    fake.push(FULL)
    answer = gateway.ask(path, BODIES[path] | {"stream": stream}, headers={"user-agent": "claude-cli/2.0.67"})
    assert answer.status == 200
    record = gateway.record(interception_id(answer))
    is_messages = path == MESSAGES
    written = record["cache_write_tokens"]
    documented = dict(list(record.items())[:19])
    assert documented | {"started_at": "", "ended_at": "", "cache_write_tokens": 0} == {
        "id": interception_id(answer),
        "user": "tester",
        "provider": PROTOCOL_NAMES[path],
        "provider_name": PROTOCOL_NAMES[path],
        "model": "m",
        "client": "Claude Code",
        "session_id": None,
        "started_at": "",
        "ended_at": "",
        "status": "completed",
        "http_status": 200,
        "streaming": stream,
        "input_tokens": 2,
        "output_tokens": 61,
        "cache_read_tokens": 13993,
        "cache_write_tokens": 0,
        "prompt": "hello",
        "tools": [
            {"name": "read_file", "server": None, "injected": False, "error": None},
            {"name": "list_files", "server": None, "injected": False, "error": None},
        ],
        "error_type": None,
    }
    assert written == (22 if is_messages else written)
    assert record["started_at"] < record["ended_at"]


def test_session_and_correlating_call_are_recorded(gateway: Gateway) -> None:
    """Claude Code's session is found in its header."""
    headers = {"user-agent": "claude-cli/2.0", "x-claude-code-session-id": "s-1"}
    answer = gateway.ask(MESSAGES, BODIES[MESSAGES], headers=headers)
    assert gateway.record(interception_id(answer))["session_id"] == "s-1"


@ROUTES
@MODES
@pytest.mark.parametrize(
    ("status", "error_type"),
    [(400, "bad_request"), (401, "unauthorized"), (429, "rate_limited"), (500, "server_error"), (529, "overloaded")],
)
def test_a_providers_error_passes_and_is_recorded(
    gateway: Gateway, fake: FakeProvider, path: str, stream: bool, status: int, error_type: str
) -> None:
    """A provider's error reaches the client byte for byte with its status, and is not tried again.

    The 401 is that of a caller's own key: of a refused key of the gateway no client is told.
    """
    fake.push(Script(fail=Fault(status)))
    own = {"x-bridge-token": gateway.key, "authorization": "Bearer the-users-own-key"} if status == 401 else {}
    answer = gateway.ask(path, BODIES[path] | {"stream": stream}, headers=own)
    assert answer.status == status
    assert answer.body == fake.requests[-1].response
    assert len(fake.requests) == 1
    record = gateway.record(interception_id(answer))
    assert (record["status"], record["http_status"], record["error_type"]) == ("failed", status, error_type)


@ROUTES
@MODES
def test_an_upstream_that_closes_before_its_head_is_502(
    gateway: Gateway, fake: FakeProvider, path: str, stream: bool
) -> None:
    """A missing answer is never an empty 200."""
    fake.push(*[Script(cut_after=0)] * 2)  # a reused connection is tried once more
    answer = gateway.ask(path, BODIES[path] | {"stream": stream})
    assert answer.status == 502
    assert "closed the connection before it answered" in answer.json["error"]["message"]
    record = gateway.record(interception_id(answer))
    assert (record["status"], record["error_type"]) == ("failed", "upstream_broken")


@ROUTES
def test_a_silent_upstream_is_504(gateway: Gateway, fake: FakeProvider, path: str) -> None:
    """A provider that says nothing for `upstream_idle_timeout_s` is given up."""
    fake.push(Script(stall_after=0))
    answer = gateway.ask(path, BODIES[path])
    assert answer.status == 504
    record = gateway.record(interception_id(answer))
    assert (record["status"], record["error_type"]) == ("failed", "timeout")


def read_until_broken(gateway: Gateway, path: str) -> tuple[str, bytes]:
    """Return the interception's id and what arrived of a stream that must break off."""
    response = gateway.open(path, BODIES[path] | {"stream": True})
    identifier = response.headers["x-bridge-interception-id"]
    received = b""
    with pytest.raises((http.client.IncompleteRead, ConnectionError)) as broken:
        while chunk := response.read1():
            received += chunk
    if isinstance(broken.value, http.client.IncompleteRead):
        received += broken.value.partial
    response.close()
    return identifier, received


ERROR_EVENT = {MESSAGES: b"event: error\ndata: ", CHAT: b'data: {"error":', RESPONSES: b"event: error\ndata: "}


@ROUTES
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_a_stream_that_breaks_never_looks_whole(gateway: Gateway, fake: FakeProvider, path: str, reset: bool) -> None:
    """After a break the client gets an error event and an aborted connection; tokens seen so far are recorded."""
    fake.push(Script(cut_after=5, reset=reset, input_tokens=7))
    identifier, received = read_until_broken(gateway, path)
    *_events, last = received.removesuffix(b"\n\n").split(b"\n\n")
    assert (last + b" ").startswith(ERROR_EVENT[path])
    record = gateway.record(identifier)
    assert (record["status"], record["http_status"], record["error_type"]) == ("failed", 200, "upstream_broken")
    assert record["input_tokens"] == (7 if path == MESSAGES else 0)


@ROUTES
def test_a_stream_that_stalls_is_given_up(gateway: Gateway, fake: FakeProvider, path: str) -> None:
    """Silence between events is a timeout as well, and the provider's connection is closed."""
    fake.push(Script(stall_after=3))
    identifier, received = read_until_broken(gateway, path)
    assert b"sent nothing for 1 s" in received
    record = gateway.record(identifier)
    assert (record["status"], record["error_type"]) == ("failed", "timeout")
    assert fake.requests[-1].closed.wait(5)


@ROUTES
def test_an_error_inside_the_stream_is_recorded(gateway: Gateway, fake: FakeProvider, path: str) -> None:
    """A provider's own error event passes as it is, the stream ends normally, and the record says failed."""
    fake.push(Script(stream_error_after=3))
    answer = gateway.ask(path, BODIES[path] | {"stream": True})
    assert answer.body == fake.requests[-1].response
    assert b"error" in answer.body
    assert gateway.record(interception_id(answer))["status"] == "failed"


@ROUTES
def test_a_client_that_leaves_is_recorded(gateway: Gateway, fake: FakeProvider, path: str) -> None:
    """When the client goes the provider's connection is closed at once, and the record has the tokens seen."""
    fake.push(Script(gate=True, input_tokens=9))
    response = gateway.open(path, BODIES[path] | {"stream": True})
    assert response.read1()
    response.close()
    assert fake.requests[-1].closed.wait(5)
    record = gateway.record(response.headers["x-bridge-interception-id"])
    assert (record["status"], record["error_type"]) == ("cancelled", "client_closed")
    assert record["input_tokens"] == (9 if path == MESSAGES else 0)


def test_a_client_that_leaves_after_the_last_event_is_complete(gateway: Gateway, fake: FakeProvider) -> None:
    """Many clients close when they have read the last event, before the provider ends its body."""
    last = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    fake.push(Script(raw=(head + last, b": never sent\n\n"), gate=True))
    with gateway.open(MESSAGES, BODIES[MESSAGES] | {"stream": True}) as response:
        assert response.read1() == last
        identifier = response.headers["x-bridge-interception-id"]
    record = gateway.record(identifier)
    assert (record["status"], record["error_type"]) == ("completed", None)
    assert fake.requests[-1].closed.wait(5)


def test_a_client_that_leaves_before_the_answer_is_recorded(gateway: Gateway, fake: FakeProvider) -> None:
    """Leaving while the provider thinks is recorded as well."""
    fake.push(Script(stall_after=0))
    body = json.dumps(BODIES[MESSAGES] | {"model": "left-early"}).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(
            f"POST {MESSAGES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body,
        )
        gateways.eventually(lambda: fake.requests or None)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def left() -> dict[str, Any] | None:
        return next((r for r in gateway.records() if r["model"] == "left-early" and r["status"] != "open"), None)

    record = gateways.eventually(left)
    assert (record["status"], record["http_status"]) == ("cancelled", None)
    assert fake.requests[-1].closed.wait(5)


def test_clients_that_leave_at_any_moment_leave_nothing_open(gateway: Gateway, fake: FakeProvider) -> None:
    """However early a client goes, what was begun is ended, and the gateway serves on."""
    fake.script = Script(events=50, gap_s=0.001)
    body = json.dumps(BODIES[MESSAGES] | {"model": "gone", "stream": True}).encode()
    head = f"POST {MESSAGES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    for number in range(150):
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            client.sendall(request)
            if number % 3:
                client.recv(number)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def all_ended() -> list[str] | None:
        gateway.count_recorded()
        statuses = [record["status"] for record in gateway.records() if record["model"] == "gone"]
        return statuses if statuses and "open" not in statuses else None

    assert set(gateways.eventually(all_ended)) <= {"cancelled", "completed"}


def test_a_client_that_stops_reading_is_given_up(gateway: Gateway, fake: FakeProvider) -> None:
    """A client that reads nothing for `client_stall_s` does not hold its provider's connection for ever."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    fake.push(Script(raw=(head, *[b"data: " + b"x" * 65_000 + b"\n\n"] * 1000)))
    body = json.dumps(BODIES[RESPONSES] | {"stream": True, "model": "stalled"}).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(
            f"POST {RESPONSES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body,
        )

        def given_up() -> dict[str, Any] | None:
            return next((r for r in gateway.records() if r["model"] == "stalled" and r["status"] != "open"), None)

        record = gateways.eventually(given_up)
    assert (record["status"], record["error_type"]) == ("cancelled", "client_closed")


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (b"content-type: application/json\r\ncontent-length: 100\r\n\r\n", b"{"),
        (b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n", b"zz\r\n"),
        (b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n", b"5\r\ndata: zz"),
    ],
    ids=["short", "size", "stream"],
)
def test_a_malformed_body_aborts_the_client(gateway: Gateway, fake: FakeProvider, head: bytes, rest: bytes) -> None:
    """After the head was relayed a broken body can only be aborted."""
    fake.push(Script(raw=(b"HTTP/1.1 200 OK\r\n" + head, rest), gate=True))
    response = gateway.open(MESSAGES, BODIES[MESSAGES])
    assert response.status == 200
    fake.release()
    with response, pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    record = gateway.record(response.headers["x-bridge-interception-id"])
    assert (record["status"], record["error_type"]) == ("failed", "upstream_broken")


@MODES
def test_gw_rs18_background_responses_pass(gateway: Gateway, fake: FakeProvider, stream: bool) -> None:
    """`background: true` is the provider's business, where the reference cannot do it: nothing is made of it here."""
    answer = gateway.ask(RESPONSES, BODIES[RESPONSES] | {"background": True, "stream": stream})
    assert answer.status == 200
    assert json.loads(fake.requests[-1].body)["background"] is True
    assert gateway.record(interception_id(answer))["status"] == "completed"


def test_stored_objects_answer_only_to_their_user(gateway: Gateway, fake: FakeProvider) -> None:
    """With a central key one user cannot read, continue, cancel or delete what another made."""
    other = commandlab.bridgecore(gateway.folder, "keys", "create", "--user", "other").stdout.strip()
    theirs = {"authorization": f"Bearer {other}"}
    response_id = gateway.ask(RESPONSES, BODIES[RESPONSES]).json["id"]
    conversation_id = gateway.ask("/openai/v1/conversations", b"{}").json["id"]
    requests: list[tuple[str, str, dict[str, Any] | None]] = [
        ("GET", f"/openai/v1/responses/{response_id}", None),
        ("GET", f"/openai/v1/responses/{response_id}/input_items", None),
        ("POST", f"/openai/v1/responses/{response_id}/cancel", {}),
        ("DELETE", f"/openai/v1/responses/{response_id}", None),
        ("GET", f"/openai/v1/conversations/{conversation_id}", None),
        ("POST", RESPONSES, BODIES[RESPONSES] | {"previous_response_id": response_id}),
        ("POST", RESPONSES, BODIES[RESPONSES] | {"conversation": conversation_id}),
        ("POST", RESPONSES, BODIES[RESPONSES] | {"conversation": {"id": conversation_id}}),
    ]
    twice = [
        f'{{"model":"m","input":"x","previous_response_id":"{response_id}","previous_response_id":null}}',
        f'{{"model":"m","input":"x","previous_respons\\u0065_id":"{response_id}","previous_response_id":null}}',
        f'{{"model":"m","input":"x","conversation":{{"id":"{conversation_id}","id":null}}}}',
    ]
    for text in twice:
        assert gateway.ask(RESPONSES, text.encode(), headers=theirs).status == 404, text
    for method, path, body in requests:
        assert gateway.ask(path, body, method=method, headers=theirs).status == 404, (method, path, body)
    encoded = response_id.replace("_", "%5F")
    requests_before = len(fake.requests)
    assert gateway.ask(f"/openai/v1/responses/{encoded}", headers=theirs).status == 404
    assert len(fake.requests) == requests_before
    for method, path, body in requests:
        assert gateway.ask(path, body, method=method).status == 200, (method, path, body)
