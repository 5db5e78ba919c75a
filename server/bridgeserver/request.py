"""A client's request as ASGI gives it, and the checks that come before anybody is asked what it wants."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any
from urllib.parse import unquote_to_bytes

from bridgeserver.errors import BadRequest, BodyTooLarge, ClientClosed, HeadTooLarge, RequestTimeout
from bridgeserver.guard import Guard
from bridgeserver.headers import Headers, Pairs, by_name
from bridgeserver.limits import Budget

DISCARD_BYTES = 64 << 20
DISCARD_S = 2.0

Network = IPv4Network | IPv6Network

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_~:@!$&'()*+,;=-][A-Za-z0-9._~:@!$&'()*+,;=-]*)+")
_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Request:
    """The head of a request: its raw path and query as they came, and its header fields."""

    __slots__ = ("fields", "headers", "method", "path", "peer", "query")

    def __init__(self, scope: Scope) -> None:
        self.method: str = scope["method"]
        # `path` of ASGI is decoded: `..%2f` would look like a way out of the whitelist only upstream.
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.path = raw_path.decode("latin-1")
        self.query: bytes = scope["query_string"]
        self.fields: Pairs = list(scope["headers"])
        self.headers: Headers = by_name(self.fields)
        self.peer: str = scope["client"][0] if scope.get("client") else ""
        """The address that the request came from."""

    @property
    def provider_name(self) -> str:
        """The first segment of the path."""
        return self.path[1:].partition("/")[0]

    def client_address(self, trusted: Collection[Network]) -> str:
        """Return the address of the client: of the peer, or what a trusted proxy says in `X-Forwarded-For`.

        Read from its end, where the nearest proxy has written; the first address that is not itself a trusted
        proxy counts.
        """
        hops = [hop.strip() for hop in self.headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")]
        address = self.peer
        while trusted and hops and _is_in(address, trusted):
            address = hops.pop() or address
        return address

    def check_head(self, max_bytes: int) -> None:
        """Raise HeadTooLarge if the head is longer than *max_bytes*."""
        size = len(self.path) + len(self.query) + sum(len(name) + len(value) + 4 for name, value in self.fields)
        if size > max_bytes:
            raise HeadTooLarge(f"the request's head has {size} bytes; at most {max_bytes} are accepted")

    def check_path(self) -> None:
        """Raise BadRequest for a path that a provider might read as another one than the whitelist did."""
        if _PLAIN_PATH.fullmatch(self.path) or self.path == "/":
            return
        raw = self.path.encode("latin-1")
        if _ESCAPE.search(raw):
            raise BadRequest("the path holds a percent sign that begins no escape")
        for segment in raw[1:].split(b"/"):
            decoded = unquote_to_bytes(segment)
            if decoded in {b"", b".", b".."}:
                raise BadRequest("the path holds an empty, `.` or `..` segment")
            if b"/" in decoded or b"\\" in decoded:
                raise BadRequest("the path holds an encoded slash or a backslash")
            if any(byte < 0x20 or byte == 0x7F for byte in decoded):
                raise BadRequest("the path holds a control character")


def _is_in(address: str, networks: Collection[Network]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


async def read_body(
    request: Request, receive: Receive, guard: Guard, *, max_bytes: int, timeout_s: float, budget: Budget
) -> bytes:
    """Return the whole body; the caller gives its length back to *budget*.

    Raises BodyTooLarge, RequestTimeout after *timeout_s* without a byte, Overloaded or ClientClosed.
    """
    announced = request.headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    error = partial(RequestTimeout, f"the request's body stopped arriving for {timeout_s:g} s")
    try:
        while True:
            guard.expect(timeout_s, error)
            message = await receive()
            if message["type"] != "http.request":
                raise ClientClosed("the request's body broke off, or its framing is wrong")
            chunk: bytes = message.get("body", b"")
            if size + len(chunk) > max_bytes:
                raise _too_large(max_bytes)
            budget.take(len(chunk))
            size += len(chunk)
            chunks.append(chunk)
            if not message.get("more_body"):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except BaseException:
        budget.give_back(size)
        raise


async def discard_body(receive: Receive) -> None:
    """Read what is left of a body that nobody wants, within bounds.

    Most clients look for an answer only when they have sent everything, and would find a reset connection
    in place of a refusal that came early.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_S):
            left = DISCARD_BYTES
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                left -= len(message["body"])


def _too_large(max_bytes: int) -> BodyTooLarge:
    limit = f"{max_bytes >> 20}MiB" if max_bytes % (1 << 20) == 0 else f"{max_bytes} bytes"
    return BodyTooLarge(f"Request body too large. The maximum allowed request body size is {limit}.")
