"""What a worker does with a request below `/-/`, before anything reaches the parent."""

import asyncio
import json
from collections.abc import Collection, Iterable
from functools import partial
from typing import NamedTuple

import pytest
import structlog

import clientlab
from bridgecore import Reply, Request
from bridgeserver import health, tokens
from bridgeserver.asks import MAX_BODY_BYTES, MAX_TARGET_BYTES, Answer, Ask
from bridgeserver.errors import BridgeError, Overloaded, StoreError, TooManyRequests, Unauthorized
from bridgeserver.identity import Caller
from bridgeserver.relay import Timeouts
from bridgeserver.request import Network
from clientlab import Client

ADMIN, USER, UNKNOWN = (tokens.make().text for _ in range(3))
CALLERS = {ADMIN: Caller("u1", "alice", "k1", is_admin=True), USER: Caller("u2", "bob", "k2", is_admin=False)}
PROVIDERS = "/-/api/v1/providers"
CLOSED = pytest.mark.parametrize("path", [PROVIDERS, f"{PROVIDERS}/x", "/-/api/", "/-/api/v2/nothing", "/-/metrics"])


class Keyring:
    """Knows two keys, and counts what it refuses by address."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.error: BridgeError | None = None

    async def authenticate(self, text: str, address: str) -> Caller:
        if self.error is not None:
            raise self.error
        if text not in CALLERS:
            self.refused.append(address)
            raise Unauthorized("the gateway key is not valid: it is unknown, malformed or revoked")
        return CALLERS[text]


class FakeWorker:
    """A worker whose parent gives one answer to everything."""

    trusted_proxies: Collection[Network] = ()
    metrics_tokens: Collection[bytes] = ()
    timeouts = Timeouts(upstream_s=1.0, client_s=1.0)

    def __init__(self) -> None:
        self.keyring = Keyring()
        self.is_ready = True
        self.asked: list[Ask] = []
        self.error: Exception | None = None
        self.answer = Answer(200, b'{"a":1}')

    async def ask(self, ask: Ask) -> Answer:
        self.asked.append(ask)
        if self.error is not None:
            raise self.error
        return self.answer


class Got(NamedTuple):
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, str]:
        """The error, after making sure that the answer is nothing else."""
        assert self.headers["content-type"] == "application/json"
        answer = json.loads(self.body)
        assert list(answer) == ["error"]
        assert sorted(answer["error"]) == ["message", "type"]
        return dict(answer["error"])


@pytest.fixture
def worker() -> FakeWorker:
    """A ready worker."""
    return FakeWorker()


def call(
    worker: FakeWorker,
    method: str,
    target: str,
    *chunks: bytes,
    key: str | None = None,
    fields: Iterable[tuple[str, str]] = (),
    breaks_off: bool = False,
) -> Got:
    """Send a request to the worker and return what comes back."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {text}" for name, text in fields)]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    body = b"".join(chunks)
    if not any(name == "content-length" for name, _text in fields):
        lines.append("transfer-encoding: chunked")
        body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        body += b"no chunk" if breaks_off else b"0\r\n\r\n"

    async def run() -> Got:
        server = clientlab.serve(partial(health.answer, worker))
        client = Client(server)
        client.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
        for start in range(0, len(body), 1 << 16):
            client.send(body[start : start + (1 << 16)])
            await clientlab.settle()
        await clientlab.settle()
        server.abort()
        status, headers, content = clientlab.parse(client.wire.sent)
        del headers["date"]
        return Got(status, headers, content)

    return asyncio.run(run())


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/-/healthz", "/-/readyz"])
def test_health_is_open_and_without_detail(worker: FakeWorker, method: str, path: str) -> None:
    """A probe needs no key and learns nothing but the status."""
    got = call(worker, method, path)
    assert (got.status, got.headers["content-length"], got.body) == (200, "3", b"ok\n" if method == "GET" else b"")
    assert not worker.asked


def test_an_unready_worker_says_so(worker: FakeWorker) -> None:
    """Readiness is 503 and asks to come again; health is not readiness."""
    worker.is_ready = False
    got = call(worker, "GET", "/-/readyz")
    assert (got.status, got.body, got.headers["retry-after"]) == (503, b"not ready\n", "1")
    assert call(worker, "GET", "/-/healthz").status == 200


@pytest.mark.parametrize("path", ["/-/healthz", "/-/readyz"])
def test_health_is_only_read(worker: FakeWorker, path: str) -> None:
    """Another method is 405, with the ones that are right."""
    got = call(worker, "POST", path, b"{}", key=ADMIN)
    assert (got.status, got.headers["allow"]) == (405, "GET, HEAD")
    assert not worker.asked


@pytest.mark.parametrize(
    "path", ["/-/", "/-/nothing", "/-/metrics/", "/-/metricsx", "/-/api", "/-/readyz/", "/-/../-/api/v1"]
)
def test_the_unknown_is_404(worker: FakeWorker, path: str) -> None:
    """Nothing else is there, whoever asks."""
    got = call(worker, "GET", path, key=ADMIN)
    assert (got.status, got.body) == (404, f"route not supported: GET {path}\n".encode())
    assert not worker.asked


def test_a_key_in_an_unknown_path_is_not_echoed(worker: FakeWorker) -> None:
    """An answer never holds a secret, whoever put it where."""
    got = call(worker, "GET", f"/-/{ADMIN}")
    assert got.status == 404
    assert ADMIN.encode() not in got.body


def test_an_administrator_gets_the_detail_of_readiness(worker: FakeWorker) -> None:
    """It is the parent's, with its status, also where this worker thinks otherwise."""
    worker.answer = Answer(503, b'{"ready":false}')
    got = call(worker, "GET", "/-/readyz", key=ADMIN)
    assert (got.status, got.body, got.headers["content-type"]) == (503, b'{"ready":false}', "application/json")
    assert worker.asked == [Ask("GET", "/-/readyz", "", b"", "user alice, key k1", "u1", is_admin=True)]


@pytest.mark.parametrize(
    "key", [None, USER, UNKNOWN, "sk-somebody-elses"], ids=["none", "a user", "unknown", "another product"]
)
def test_readiness_stays_open_for_everybody_else(worker: FakeWorker, key: str | None) -> None:
    """A key that opens no detail does not make a probe fail."""
    got = call(worker, "GET", "/-/readyz", key=key)
    assert (got.status, got.body) == (200, b"ok\n")
    assert not worker.asked


@pytest.mark.parametrize("error", [StoreError("no disk"), TooManyRequests("slow down")])
def test_readiness_survives_a_keyring_that_fails(worker: FakeWorker, error: BridgeError) -> None:
    """Where nobody can be known there is no detail, and the probe is answered."""
    worker.keyring.error = error
    assert call(worker, "GET", "/-/readyz", key=ADMIN).body == b"ok\n"


def test_detail_that_the_parent_does_not_give_is_a_failure(worker: FakeWorker) -> None:
    """An administrator who asked for detail is told that there is none."""
    worker.error = Overloaded("the parent did not answer within 5 s")
    got = call(worker, "GET", "/-/readyz", key=ADMIN)
    assert got.status == 503
    assert got.error["message"] == "the parent did not answer within 5 s"


@CLOSED
def test_an_administrators_request_is_forwarded(worker: FakeWorker, path: str) -> None:
    """Method, raw path, query, body and who it was go to the parent, and its answer comes back."""
    worker.answer = Answer(201, b"made", "text/x", {"location": "/there"})
    got = call(worker, "POST", f"{path}?a=%20b", b'{"x"', b":1}", key=ADMIN)
    assert worker.asked == [Ask("POST", path, "a=%20b", b'{"x":1}', "user alice, key k1", "u1", is_admin=True)]
    assert (got.status, got.body) == (201, b"made")
    assert got.headers == {
        "content-type": "text/x",
        "content-length": "4",
        "location": "/there",
        "cache-control": "no-store",
    }


def test_head_is_asked_as_get(worker: FakeWorker) -> None:
    """The server leaves the body out by itself."""
    assert call(worker, "HEAD", PROVIDERS, key=ADMIN).status == 200
    assert worker.asked[0].method == "GET"


def test_no_content_says_nothing_of_a_content(worker: FakeWorker) -> None:
    """A 204 has neither a length nor a type."""
    worker.answer = Answer(204, b"")
    got = call(worker, "DELETE", f"{PROVIDERS}/x", key=ADMIN)
    assert (got.status, got.headers, got.body) == (204, {"cache-control": "no-store"}, b"")


@CLOSED
@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("authorization", "")],
        [("authorization", f"Basic {ADMIN}")],
        [("authorization", ADMIN)],
        [("authorization", "Bearer sk-provider-key")],
        [("authorization", f"Bearer {ADMIN} {ADMIN}")],
        [("authorization", f"Bearer {ADMIN}"), ("authorization", f"Bearer {USER}")],
        [("x-api-key", ADMIN)],
        [("x-bridge-token", ADMIN)],
        [("cookie", f"session={ADMIN}; authorization=Bearer {ADMIN}")],
        [("proxy-authorization", f"Bearer {ADMIN}")],
    ],
)
def test_a_key_elsewhere_opens_nothing(worker: FakeWorker, path: str, fields: list[tuple[str, str]]) -> None:
    """Only one `Authorization: Bearer bc_…` counts; nothing that a browser sends by itself does."""
    got = call(worker, "GET", path, fields=fields)
    assert (got.status, got.headers["www-authenticate"]) == (401, "Bearer")
    assert got.error["type"] == "unauthorized"
    assert "Authorization: Bearer bc_" in got.error["message"]
    assert not worker.asked


@CLOSED
def test_a_key_in_the_query_opens_nothing(worker: FakeWorker, path: str) -> None:
    """Addresses end up in logs and histories."""
    assert call(worker, "GET", f"{path}?key={ADMIN}&authorization=Bearer%20{ADMIN}").status == 401
    assert not worker.asked


@CLOSED
def test_an_unknown_key_is_refused_and_counted(worker: FakeWorker, path: str) -> None:
    """The keyring learns from which address it came, so that guessing is slowed."""
    got = call(worker, "GET", path, key=UNKNOWN)
    assert (got.status, got.headers["www-authenticate"]) == (401, "Bearer")
    assert UNKNOWN not in got.error["message"]
    assert worker.keyring.refused == ["192.0.2.7"]
    assert not worker.asked


@CLOSED
def test_a_key_that_is_no_administrators_is_forbidden(worker: FakeWorker, path: str) -> None:
    """A known user is told what is missing."""
    got = call(worker, "GET", path, key=USER)
    assert got.status == 403
    assert got.error["type"] == "forbidden"
    assert not worker.asked


def test_a_guesser_is_told_to_wait(worker: FakeWorker) -> None:
    """The limit of the keyring is a 429 here too."""
    worker.keyring.error = TooManyRequests("slow down")
    got = call(worker, "GET", PROVIDERS, key=ADMIN)
    assert (got.status, got.headers["retry-after"], got.error["type"]) == (429, "1", "rate_limited")


def test_keys_that_cannot_be_read_are_unavailable(worker: FakeWorker) -> None:
    """A store that fails is neither a 401 nor a 500."""
    worker.keyring.error = StoreError("the database failed")
    got = call(worker, "GET", PROVIDERS, key=ADMIN)
    assert (got.status, got.headers["retry-after"], got.error["type"]) == (503, "5", "unavailable")


def test_the_largest_body_is_taken(worker: FakeWorker) -> None:
    """One MiB is within the limit."""
    half = bytes(MAX_BODY_BYTES // 2)
    assert call(worker, "POST", PROVIDERS, half, half, key=ADMIN).status == 200
    assert len(worker.asked[0].body) == MAX_BODY_BYTES


@pytest.mark.parametrize("fields", [[], [("content-length", str(2 << 20))]], ids=["chunked", "announced"])
def test_a_larger_body_is_refused(worker: FakeWorker, fields: list[tuple[str, str]]) -> None:
    """Two MiB are 413, whether the client said so before or not, and the parent sees nothing of it."""
    got = call(worker, "POST", PROVIDERS, *[bytes(1 << 18)] * 8, key=ADMIN, fields=fields)
    assert (got.status, got.error["type"]) == (413, "too_large")
    assert not worker.asked


def test_a_body_that_breaks_off_is_refused(worker: FakeWorker) -> None:
    """Half a change is none."""
    got = call(worker, "POST", PROVIDERS, b'{"name":', key=ADMIN, breaks_off=True)
    assert (got.status, got.error["type"]) == (400, "bad_request")
    assert not worker.asked


def test_a_body_that_never_ends_is_refused(worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole body has a time; then the answer is 408."""
    monkeypatch.setattr(health, "BODY_TIMEOUT_S", 0.01)

    async def run() -> bytes:
        answered = asyncio.Event()

        async def handler(request: Request, reply: Reply) -> None:
            await health.answer(worker, request, reply)
            answered.set()

        server = clientlab.serve(handler)
        client = Client(server)
        head = f"POST {PROVIDERS} HTTP/1.1\r\nauthorization: Bearer {ADMIN}\r\ncontent-length: 9\r\n\r\n"
        client.send(head.encode())
        await answered.wait()
        server.abort()
        return client.wire.sent

    assert clientlab.parse(asyncio.run(run())).status == 408
    assert not worker.asked


def test_a_very_long_target_is_refused(worker: FakeWorker) -> None:
    """Path and query together have a limit, so that what goes to the parent has one."""
    at_limit = PROVIDERS + "/" + "a" * (MAX_TARGET_BYTES - len(PROVIDERS) - 1)
    assert call(worker, "GET", at_limit, key=ADMIN).status == 200
    for target in (f"{at_limit}a", f"{PROVIDERS}?{'q' * MAX_TARGET_BYTES}"):
        got = call(worker, "GET", target, key=ADMIN)
        assert (got.status, got.error["type"]) == (431, "too_large")
    assert len(worker.asked) == 1


def test_a_parent_that_does_not_answer_is_unavailable(worker: FakeWorker) -> None:
    """The client learns that a later try may help."""
    worker.error = StoreError("the parent did not answer within 5 s")
    got = call(worker, "GET", PROVIDERS, key=ADMIN)
    assert (got.status, got.headers["retry-after"], got.error["type"]) == (503, "5", "unavailable")


def test_a_defect_is_a_500_that_shows_nothing(worker: FakeWorker) -> None:
    """The reason stands in the log and not in the answer, and neither holds a key that strayed into the path."""
    worker.error = RuntimeError("a defect")
    with structlog.testing.capture_logs() as logs:
        got = call(worker, "GET", f"{PROVIDERS}/{USER}", key=ADMIN)
    assert (got.status, got.error["type"]) == (500, "server_error")
    assert "defect" not in got.error["message"]
    assert [entry["event"] for entry in logs] == ["administration_failed"]
    assert USER not in str(logs)
    assert ADMIN not in str(logs)


TOKEN = "a-token-for-prometheus"


@pytest.fixture
def scraped(worker: FakeWorker) -> FakeWorker:
    """A worker whose metrics have tokens."""
    worker.metrics_tokens = [b"another-token-for-it", TOKEN.encode()]
    return worker


@pytest.mark.parametrize("path", ["/-/metrics", "/-/readyz"])
def test_a_metrics_token_opens_what_is_to_be_watched(scraped: FakeWorker, path: str) -> None:
    """The metrics and the detail of readiness, without anybody's key."""
    got = call(scraped, "GET", path, key=TOKEN)
    assert (got.status, got.body) == (200, scraped.answer.body)
    assert scraped.asked == [Ask("GET", path, "", b"", "metrics token", is_admin=True)]
    assert not scraped.keyring.refused


@pytest.mark.parametrize("path", [PROVIDERS, "/-/api/v1/users/ann/tools", "/-/api/"])
def test_a_metrics_token_opens_nothing_else(scraped: FakeWorker, path: str) -> None:
    """It is no key."""
    assert call(scraped, "GET", path, key=TOKEN).status == 401
    assert not scraped.asked


@pytest.mark.parametrize(
    "key", ["", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\xe9" * 20, pytest.param(USER, id="a user's key")]
)
def test_what_is_no_metrics_token(scraped: FakeWorker, key: str) -> None:
    """It is refused as it would be without any token in the configuration."""
    expected = 403 if key == USER else 401
    assert call(scraped, "GET", "/-/metrics", key=key).status == expected
    assert call(scraped, "GET", "/-/readyz", key=key).body == b"ok\n"
    scraped.metrics_tokens = []
    assert call(scraped, "GET", "/-/metrics", key=key).status == expected
    assert not scraped.asked


def test_an_administrator_needs_no_metrics_token(scraped: FakeWorker) -> None:
    """His key opens all that it did."""
    assert call(scraped, "GET", "/-/metrics", key=ADMIN).status == 200
