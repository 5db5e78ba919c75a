"""Everything below `/-/`: health for everybody, and the way of an administrator's request to the parent.

`/-/healthz` and `/-/readyz` are open and without detail. `/-/api/…`, `/-/metrics` and the detail of readiness need
a key in `Authorization`, and nowhere else: what a browser sends by itself (a cookie, a password it has remembered)
opens nothing. An administrator's opens all of it, a user's what can be read of the user's own, and for metrics and
readiness a token of the configuration will do. Here is checked who asks; the parent, which owns the store, knows what
there is.
"""

import asyncio
import hmac
from collections.abc import Collection
from typing import NamedTuple, Protocol

import structlog

from bridgecore import Reply, Request, write_lines
from bridgeserver import downloads
from bridgeserver.asks import ADMIN_NEEDED, MAX_BODY_BYTES, MAX_TARGET_BYTES, OPEN, Answer, Ask, refusal
from bridgeserver.credential import bearer_token
from bridgeserver.errors import (
    BodyTooLarge,
    BridgeError,
    ClientClosed,
    HeadTooLarge,
    RequestTimeout,
    Unauthorized,
)
from bridgeserver.headers import Pairs
from bridgeserver.identity import Caller
from bridgeserver.relay import Timeouts
from bridgeserver.request import Network, check_unbroken, client_address
from bridgeserver.tokens import redact

log = structlog.get_logger("bridgecore")

TEXT = b"content-type: text/plain; charset=utf-8\r\n"
HEALTH, READINESS, METRICS, API = "/-/healthz", "/-/readyz", "/-/metrics", "/-/api/"
READ = frozenset({"GET", "HEAD"})
BODY_TIMEOUT_S = 10.0


class Asker(NamedTuple):
    """Whom the parent answers."""

    actor: str
    user_id: str = ""
    is_admin: bool = False


SCRAPER = Asker("metrics token", is_admin=True)
"""Who asks, where it is nobody's key that was shown."""


class Authenticator(Protocol):
    """Knows whose a gateway key is."""

    async def authenticate(self, text: str, address: str) -> Caller:
        """Return the owner of a key; raise Unauthorized, TooManyRequests or StoreError."""
        ...


class Host(Protocol):
    """What is needed of the worker that got the request."""

    @property
    def keyring(self) -> Authenticator:
        """Whose key is whose."""
        ...

    @property
    def metrics_tokens(self) -> Collection[bytes]:
        """What opens the metrics and the detail of readiness, and nothing else."""
        ...

    @property
    def trusted_proxies(self) -> Collection[Network]:
        """Peers that are believed who their clients are."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether new requests should be sent here."""
        ...

    @property
    def timeouts(self) -> Timeouts:
        """How long a client may read nothing."""
        ...

    async def ask(self, ask: Ask) -> Answer:
        """Return the parent's answer; raise a BridgeError if it gives none in time."""
        ...


async def answer(worker: Host, request: Request, reply: Reply) -> None:
    """Answer a request below `/-/`; an unknown one is 404."""
    path = request.path
    if path in {HEALTH, READINESS}:
        await _answer_health(worker, request, reply)
    elif path == METRICS or path.startswith(API):
        await _administer(worker, request, reply)
    else:
        text = f"route not supported: {request.method} {redact(path)}\n"
        reply.whole(404, TEXT, text.encode())


async def _answer_health(worker: Host, request: Request, reply: Reply) -> None:
    if request.method not in READ:
        reply.whole(405, TEXT + b"allow: GET, HEAD\r\n", b"method not allowed: use GET or HEAD\n")
    elif request.path == HEALTH:
        reply.whole(200, TEXT, b"ok\n")
    elif request.method == "GET" and (asker := await _known_reader(worker, request)) is not None:
        send(reply, await _forward(worker, request, b"", asker))
    elif worker.is_ready:
        reply.whole(200, TEXT, b"ok\n")
    else:
        reply.whole(503, TEXT + b"retry-after: 1\r\n", b"not ready\n")


async def _administer(worker: Host, request: Request, reply: Reply) -> None:
    """Answer a request that needs a key, whatever happens before the answer has begun."""
    try:
        if request.path == METRICS and _has_metrics_token(worker, request):
            send(reply, await _forward(worker, request, b"", SCRAPER))
            return
        asker = _asker(await _caller(worker, request))
        if not asker.is_admin and not (request.method in READ and OPEN.fullmatch(request.path)):
            send(reply, refusal(403, ADMIN_NEEDED))
            return
        body = await _read_body(request)
    except ClientClosed as error:
        send(reply, refusal(400, str(error)))
        return
    except BridgeError as error:
        send(reply, _refusal_of(error))
        return
    found = await _forward(worker, request, body, asker)
    if found.cursor is None:
        send(reply, found)
    else:

        async def following(cursor: str) -> Answer:
            return await _forward(worker, request, body, asker, cursor)

        await downloads.send(request, reply, _lines(found), found, following, worker.timeouts.client_s)


async def _read_body(request: Request) -> bytes:
    if request.length > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                body += request.take()
                if len(body) > MAX_BODY_BYTES:
                    raise _too_large()
                if request.complete:
                    return bytes(body)
                check_unbroken(request)
                await request.wait()
    except TimeoutError as exc:
        raise RequestTimeout(f"the request's body was not whole within {BODY_TIMEOUT_S:g} s") from exc


async def _caller(worker: Host, request: Request) -> Caller:
    """Return whose key stands in `Authorization`; raise Unauthorized, TooManyRequests or StoreError."""
    token = _presented(request)
    if token is None or not token.startswith("bc_"):
        raise Unauthorized("no gateway key: send one, once, as `Authorization: Bearer bc_…`")
    return await worker.keyring.authenticate(token, client_address(request, worker.trusted_proxies))


def _presented(request: Request) -> str | None:
    values = [value for name, value in request.fields if name == b"authorization"]
    return bearer_token(values[0]) if len(values) == 1 else None


def _has_metrics_token(worker: Host, request: Request) -> bool:
    token = (_presented(request) or "").encode("latin-1")
    # Each is compared, whichever fits, so that the time tells nothing.
    matches = [hmac.compare_digest(token, known) for known in worker.metrics_tokens]
    return any(matches)


async def _known_reader(worker: Host, request: Request) -> Asker | None:
    """Return who asks if the state is theirs to see, or None for all others: a probe must never fail over a header."""
    if _has_metrics_token(worker, request):
        return SCRAPER
    try:
        caller = await _caller(worker, request)
    except BridgeError:
        return None
    return _asker(caller) if caller.is_admin else None


def _asker(caller: Caller) -> Asker:
    return Asker(f"user {caller.user_name}, key {caller.key_id}", caller.user_id, caller.is_admin)


async def _forward(worker: Host, request: Request, body: bytes, asker: Asker, cursor: str | None = None) -> Answer:
    """Return what the parent answers, or why it does not."""
    size = len(request.path) + len(request.query)
    try:
        if size > MAX_TARGET_BYTES:
            raise HeadTooLarge(f"path and query have {size} bytes; at most {MAX_TARGET_BYTES} are accepted")
        return await worker.ask(
            Ask(
                method="GET" if request.method == "HEAD" else request.method,
                path=request.path,
                query=request.query.decode("latin-1"),
                body=body,
                actor=asker.actor,
                user_id=asker.user_id,
                is_admin=asker.is_admin,
                cursor=cursor,
            )
        )
    except BridgeError as error:
        return _refusal_of(error)
    except Exception:
        log.exception("administration_failed", method=request.method, path=redact(request.path))
        return refusal(500, "the gateway failed; its log says why")


def send(reply: Reply, answer: Answer) -> None:
    """Send what the parent has answered."""
    reply.whole(answer.status, _lines(answer), answer.body)


def _lines(answer: Answer) -> bytes:
    fields: Pairs = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
    fields.append((b"cache-control", b"no-store"))
    if answer.status != 204:  # has no body, and says nothing of one
        fields.append((b"content-type", answer.content_type.encode()))
    return write_lines(fields)


def _refusal_of(error: BridgeError) -> Answer:
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    return refusal(error.status, str(error), headers)


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"the request's body is longer than {MAX_BODY_BYTES} bytes, which no change needs")
