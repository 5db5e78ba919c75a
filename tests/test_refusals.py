"""What a running gateway refuses, and how: nothing is forwarded, and the answer has its protocol's shape."""

import json
import socket
from typing import Any

import pytest

import commandlab
import gateway as gateways
from bridgeserver.fakeprovider import FakeProvider
from gateway import BODIES, Answer, Gateway

MESSAGES, CHAT, RESPONSES = BODIES
ROUTES = pytest.mark.parametrize("path", BODIES)


def message_of(path: str, answer: Answer) -> str:
    """Return the message of an error, after checking that it has the shape of the path's protocol."""
    error: dict[str, Any] = answer.json["error"]
    assert answer.headers["content-type"] == "application/json"
    assert isinstance(error["type"], str)
    if path.startswith(("/anthropic", "/switched-off")):
        assert answer.json["type"] == "error"
    else:
        assert set(error) >= {"message", "type", "param", "code"}
    message: str = error["message"]
    return message


@ROUTES
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b'"x"', b"null", b"{'a':1}", b'{"a":1}x', b"\xff\xfe{}", b"[" * 100_000],
    ids=["empty", "cut", "array", "string", "null", "quotes", "more", "utf16", "deep"],
)
def test_gw_r16_a_body_that_is_no_json_object_is_400(
    gateway: Gateway, fake: FakeProvider, path: str, body: bytes
) -> None:
    """Invalid JSON, or JSON that is not an object, goes nowhere and is not recorded.

    400 and not the reference's 500: it is the client's mistake, and no SDK should try it again.
    """
    before = gateway.count_recorded()
    fake.reset()
    answer = gateway.ask(path, body)
    assert answer.status == 400
    assert message_of(path, answer)
    assert not fake.requests
    assert gateway.count_recorded() == before + 1


def upgrade(gateway: Gateway, path: str, key: str) -> tuple[int, bytes]:
    """Ask for a WebSocket, and after it on the same connection for the models; return the first status and the rest."""
    head = f"host: h\r\nauthorization: Bearer {key}\r\n"
    received = gateway.raw(
        f"GET {path} HTTP/1.1\r\n{head}connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n"
        f"GET /openai/v1/models HTTP/1.1\r\n{head}connection: close\r\n\r\n".encode()
    )
    first, _, rest = received.partition(b"HTTP/1.1 200 ")
    return int(first.split()[1]), first + rest


@ROUTES
def test_a_websocket_on_a_bridged_route_is_426(gateway: Gateway, fake: FakeProvider, path: str) -> None:
    """Codex tries one on the Responses route, and falls back to HTTP when it is refused in this way."""
    fake.reset()
    status, answers = upgrade(gateway, path, gateway.key)
    assert status == 426
    assert b"WebSocket transport is not supported, use HTTP" in answers
    assert b"gpt-" in answers  # the connection serves on
    assert [request.path for request in fake.requests] == ["/v1/models"]


def test_a_websocket_is_no_way_around_the_key_or_the_routes(gateway: Gateway, fake: FakeProvider) -> None:
    """Without a key it is 401 as ever, and 404 where there is no bridged route."""
    fake.reset()
    assert upgrade(gateway, "/openai/v1/responses", "bc_no")[0] == 401
    assert upgrade(gateway, "/openai/v1/nothing", gateway.key)[0] == 404
    assert upgrade(gateway, "/switched-off/v1/messages", gateway.key)[0] == 503


@ROUTES
def test_gw_n4_a_body_over_the_limit_is_413(gateway: Gateway, fake: FakeProvider, path: str) -> None:
    """A body over `max_body_bytes` is refused, announced or not."""
    body = json.dumps(BODIES[path] | {"padding": "x" * (5 << 20)}).encode()
    answer = gateway.ask(path, body)
    assert answer.status == 413
    assert message_of(path, answer) == "Request body too large. The maximum allowed request body size is 4MiB."
    assert not fake.requests


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({"authorization": ""}, "no gateway key"),
        ({"authorization": "Bearer"}, "no gateway key"),
        ({"authorization": "Basic Zm9v"}, "no gateway key"),
        ({"authorization": "Bearer nonsense"}, "not valid"),
        ({"authorization": "Bearer bc_short_x"}, "not valid"),
        ({"authorization": f"Bearer bc_{'a' * 12}_{'b' * 43}"}, "not valid"),
        ({"authorization": "Bearer KEYx"}, "not valid"),
        ({"x-bridge-token": "sk-ant-nonsense"}, "not valid"),
        ({"x-api-key": "KEY"}, "second gateway key"),
        ({"cookie": "a=KEY"}, "second gateway key"),
        ({"x-bridge-token": "KEY"}, "second gateway key"),
        ({"user-agent": "agent/1 KEY"}, "second gateway key"),
        ({"anthropic-beta": "KEYKEY"}, "second gateway key"),
    ],
    ids=[
        "empty",
        "bare",
        "basic",
        "nonsense",
        "short",
        "unknown",
        "longer",
        "byok",
        "twice",
        "cookie",
        "both",
        "agent",
        "beta",
    ],
)
def test_a_wrong_token_is_401(gateway: Gateway, fake: FakeProvider, headers: dict[str, str], wanted: str) -> None:
    """No token, an unknown, malformed or second one: refused, and never repeated in the answer."""
    fields = {name: value.replace("KEY", gateway.key) for name, value in headers.items()}
    for path in BODIES:
        answer = gateway.ask(path, BODIES[path], headers=fields)
        assert answer.status == 401
        assert wanted in message_of(path, answer)
        assert gateway.key.encode() not in answer.body
    assert not fake.requests


@pytest.mark.parametrize("form", ["{}", "%62c_{}", "a=1&key={}"])
def test_a_token_in_the_query_is_401(gateway: Gateway, fake: FakeProvider, form: str) -> None:
    """A key in the query would stand in the logs of every hop; it is refused however it is spelled."""
    token = gateway.key.removeprefix("bc_") if "%62" in form else gateway.key
    assert gateway.ask(f"{MESSAGES}?{form.format(token)}", BODIES[MESSAGES]).status == 401
    assert not fake.requests


def test_a_token_in_the_path_is_401(gateway: Gateway, fake: FakeProvider) -> None:
    """A key in the path is refused like one in the query, and not repeated."""
    answer = gateway.ask(f"/anthropic/v1/models/{gateway.key}")
    assert answer.status == 401
    assert gateway.key.encode() not in answer.body
    assert not fake.requests


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("TRACE", "/anthropic/v1/models"),
        ("POST", "/anthropic/v1/models"),
        ("GET", "/anthropic/v1/messages/count_tokens"),
        ("DELETE", "/openai/v1/models/ft:gpt:org"),
        ("OPTIONS", "/openai/v1/models"),
        ("GET", "/openai/v1/conversations"),
        ("PUT", "/openai/v1/conversations/conv_1"),
        ("GET", "/"),
        pytest.param("GET", "/nowhere", id="gw-R11-nowhere"),
        ("POST", "/anthropic"),
        pytest.param("POST", "/anthropic/v1/messages/batches", id="gw-R11-batches"),
        ("POST", "/anthropic/v1/complete"),
        ("GET", "/anthropic/v1/messages"),
        ("POST", "/openai/v1/completions"),
        ("POST", "/openai/v1/embeddings"),
        ("POST", "/openai/chat/completions"),
        ("POST", "/openaix/v1/chat/completions"),
        ("GET", "/openai/v1/files"),
        ("GET", "/-/metrics/nothing"),
    ],
)
def test_an_unknown_path_is_404(gateway: Gateway, fake: FakeProvider, method: str, path: str) -> None:
    """What is not on the whitelist is named and refused."""
    answer = gateway.ask(path, b"{}" if method == "POST" else None, method=method)
    assert answer.status == 404
    assert f"route not supported: {method} {path}".encode() in answer.body
    assert not fake.requests


@pytest.mark.parametrize(
    "path",
    [
        "/anthropic/v1/models/..%2f..%2fadmin",
        "/anthropic/v1/models/%2e%2e/admin",
        "/anthropic/v1/models/../admin",
        "/anthropic/v1/models/./x",
        "/anthropic/v1/models/a%5cb",
        "/anthropic/v1/models/a\\b",
        "/anthropic/v1/models//x",
        "/anthropic//v1/models",
        "//anthropic/v1/models",
        "/anthropic/v1/models/",
        "/anthropic/v1/models/a%00b",
        "/anthropic/v1/models/a%0d%0ab",
        "/anthropic/v1/models/a%7f",
        "/anthropic/v1/models/%zz",
        "/anthropic/v1/models/%",
        "/openai/v1/responses/%2E%2E/models",
    ],
)
def test_a_path_that_could_leave_the_whitelist_is_400(gateway: Gateway, fake: FakeProvider, path: str) -> None:
    """A path is taken as it was sent, and refused where a provider might read another one in it."""
    answer = gateway.raw(
        f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\nconnection: close\r\n\r\n".encode(),
    )
    assert answer.startswith(b"HTTP/1.1 400")
    assert not fake.requests


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/switched-off/v1/messages", "/switched-off/v1/models", "/switched-off/any/thing"])
def test_gw_n1_a_disabled_provider_is_its_sentinel(
    gateway: Gateway, fake: FakeProvider, method: str, path: str
) -> None:
    """Every path and method below a disabled provider is a 503 that says so, and that a retry cannot help.

    The words are the reference's, the shape is the protocol's: an SDK shows the message of JSON, and text it does not.
    """
    before = gateway.count_recorded()
    fake.reset()
    answer = gateway.ask(path, b"{" if method in {"POST", "PUT"} else None, method=method)
    assert answer.status == 503
    assert message_of(path, answer) == 'provider_disabled: AI provider "switched-off" is disabled'
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    assert not fake.requests
    assert gateway.count_recorded() == before + 1


def test_gw_n2_a_disabled_provider_does_not_read_the_body(gateway: Gateway) -> None:
    """The sentinel answers before a body of any announced size has arrived."""
    head = (
        f"POST /switched-off/v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
        "connection: close\r\ncontent-length: 99999999999\r\n\r\n"
    )
    assert gateway.raw(head.encode()).startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/anthropic", 200),
        ("/anthropic/", 200),
        ("/anthropic/api/hello", 200),
        ("/anthropic/v1/models", 401),
        ("/switched-off", 503),
        ("/unknown", 404),
        ("/unknown/api/hello", 404),
    ],
)
def test_the_probe_of_claude_code(gateway: Gateway, fake: FakeProvider, path: str, status: int) -> None:
    """`HEAD` on a provider's prefix, or on what newer versions ask for, needs no token, and reaches nobody."""
    connection = gateway.connect()
    connection.request("HEAD", path)
    with connection.getresponse() as response:
        assert response.status == status
    connection.close()
    assert not fake.requests


def test_a_huge_head_is_431(gateway: Gateway, fake: FakeProvider) -> None:
    """A head over `max_head_bytes` is refused."""
    answer = gateway.ask(MESSAGES, BODIES[MESSAGES], headers={"x-padding": "x" * 70_000})
    assert answer.status == 431
    assert not fake.requests


def test_a_body_that_stops_is_408(gateway: Gateway, fake: FakeProvider) -> None:
    """A client that stops sending its body is told so after `body_timeout_s`."""
    head = (
        f"POST {MESSAGES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\ncontent-length: 100\r\n\r\n{{"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
        client.sendall(head.encode())
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 408")
    assert not fake.requests


def test_guessing_keys_is_slowed(gateway: Gateway) -> None:
    """An address with many refused keys in one second is told to wait; a known key is served all the same."""
    statuses = {
        gateway.ask("/anthropic/v1/models", headers={"authorization": f"Bearer {n}"}, source="127.0.0.9").status
        for n in range(60)
    }
    assert statuses == {401, 429}
    assert gateway.ask("/anthropic/v1/models", source="127.0.0.9").status == 200


def test_health_needs_no_key(gateway: Gateway) -> None:
    """`/-/healthz` and `/-/readyz` answer everybody, without detail."""
    for path in ("/-/healthz", "/-/readyz"):
        answer = gateway.ask(path, headers={"authorization": ""})
        assert (answer.status, answer.body) == (200, b"ok\n")


def test_a_revoked_key_is_refused_within_a_second(gateway: Gateway) -> None:
    """Revoking a key ends it everywhere, although the gateway remembers it."""
    created = commandlab.bridgecore(gateway.folder, "keys", "create", "--user", "leaver")
    key = created.stdout.strip()
    headers = {"authorization": f"Bearer {key}"}
    assert gateway.ask("/anthropic/v1/models", headers=headers).status == 200
    assert commandlab.bridgecore(gateway.folder, "keys", "revoke", key.split("_")[1]).returncode == 0
    gateways.eventually(
        lambda: True if gateway.ask("/anthropic/v1/models", headers=headers).status == 401 else None, timeout_s=2
    )


@ROUTES
def test_byok_passes_the_callers_own_credential(gateway: Gateway, fake: FakeProvider, path: str) -> None:
    """With `X-Bridge-Token` the provider sees the caller's own key, and never the gateway's or the central one."""
    headers = {"x-bridge-token": gateway.key, "authorization": "Bearer sk-my-very-own-provider-key"}
    answer = gateway.ask(path, BODIES[path], headers=headers)
    assert answer.status == 200
    sent = dict(fake.requests[-1].headers)
    assert sent["authorization"] == "Bearer sk-my-very-own-provider-key"
    assert "x-api-key" not in sent
    assert gateway.key not in str(fake.requests[-1].headers)


@pytest.mark.parametrize("value", ["Token abc", "Basic eDp5", "Bearer", "Bearer a b"])
def test_byok_with_an_unreadable_credential_is_401(gateway: Gateway, fake: FakeProvider, value: str) -> None:
    """A mistyped key of the caller's own is not replaced by the central one, which would have to pay."""
    headers = {"x-bridge-token": gateway.key, "authorization": value}
    answer = gateway.ask(RESPONSES, BODIES[RESPONSES], headers=headers)
    assert answer.status == 401
    assert "your own provider key was expected" in message_of(RESPONSES, answer)
    assert not fake.requests


def test_a_body_whose_framing_is_wrong_is_400(gateway: Gateway, fake: FakeProvider) -> None:
    """A chunk that is none is the client's mistake, and is answered as one."""
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\nconnection: close\r\n"
    answer = gateway.raw(f"{head}transfer-encoding: chunked\r\n\r\nzz\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"framing is wrong" in answer
    assert not fake.requests


def test_byok_prefers_the_anthropic_key(gateway: Gateway, fake: FakeProvider) -> None:
    """Of two credentials for Anthropic the API key counts, and the other stays here."""
    headers = {"x-bridge-token": gateway.key, "authorization": "Bearer user-token", "x-api-key": "user-api-key"}
    gateway.ask(MESSAGES, BODIES[MESSAGES], headers=headers)
    sent = dict(fake.requests[-1].headers)
    assert sent["x-api-key"] == "user-api-key"
    assert "authorization" not in sent
