"""What is checked of a client's request before anybody is asked what it wants, and how its body is read."""

import re
from collections.abc import Collection
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from urllib.parse import unquote_to_bytes

from bridgecore import Guard, Request
from bridgeserver.errors import BadRequest, BodyTooLarge, ClientClosed, HeadTooLarge, RequestTimeout
from bridgeserver.limits import Budget
from bridgeserver.tokens import redact

Network = IPv4Network | IPv6Network

_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_~:@!$&'()*+,;=-][A-Za-z0-9._~:@!$&'()*+,;=-]*)+").fullmatch
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}").fullmatch
_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def provider_name(path: str) -> str:
    """Return the first segment of a path."""
    return path[1:].partition("/")[0]


def client_address(request: Request, trusted: Collection[Network]) -> str:
    """Return the address of the client: of the peer, or what a trusted proxy says in `X-Forwarded-For`.

    Read from its end, where the nearest proxy has written; the first address that is not itself a trusted
    proxy counts.
    """
    address = request.peer
    if not trusted:
        return address
    hops = [hop.strip() for hop in request.headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")]
    while hops and _is_in(address, trusted):
        address = hops.pop() or address
    return address


def request_id(request: Request, trusted: Collection[Network]) -> str:
    """Return the `X-Request-Id` that a trusted proxy has set, or nothing."""
    value = request.headers.get(b"x-request-id")
    if value is None or _REQUEST_ID(value) is None or not _is_in(request.peer, trusted):
        return ""
    return redact(value.decode("ascii"))


def check_head(request: Request, max_bytes: int) -> None:
    """Raise HeadTooLarge if the head is longer than *max_bytes*."""
    if request.head_bytes > max_bytes:
        raise HeadTooLarge(f"the request's head has {request.head_bytes} bytes; at most {max_bytes} are accepted")


def check_path(path: str) -> None:
    """Raise BadRequest for a path that a provider might read as another one than the whitelist did."""
    if _PLAIN_PATH(path) or path == "/":
        return
    raw = path.encode("latin-1")
    if _ESCAPE.search(raw):
        raise BadRequest("the path holds a percent sign that begins no escape")
    if b"#" in raw:
        raise BadRequest("the path holds a number sign, which begins a fragment")
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


def take_body(request: Request, max_bytes: int, budget: Budget) -> bytes | None:
    """Return the body if it is here already, as `read_body` does; None if there is something to wait for."""
    if not request.complete or request.length > max_bytes:
        return None
    body = request.take()
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    budget.take(len(body))
    return body


async def read_body(request: Request, guard: Guard, *, max_bytes: int, timeout_s: float, budget: Budget) -> bytes:
    """Return the whole body; the caller gives its length back to *budget*.

    Raises BodyTooLarge, RequestTimeout after *timeout_s* without a byte, Overloaded or ClientClosed.
    """
    if request.length > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        while True:
            chunk = request.take()
            if size + len(chunk) > max_bytes:
                raise _too_large(max_bytes)
            budget.take(len(chunk))
            size += len(chunk)
            if request.complete:
                return b"".join((*chunks, chunk)) if chunks else chunk
            if chunk:
                chunks.append(chunk)
            check_unbroken(request)
            guard.expect(timeout_s, partial(RequestTimeout, f"the request's body stopped arriving for {timeout_s:g} s"))
            await request.wait()
    except BaseException:
        budget.give_back(size)
        raise


def check_unbroken(request: Request) -> None:
    """Raise ClientClosed if the rest of the body will never come."""
    if request.is_broken:
        raise ClientClosed("the request's body broke off, or its framing is wrong")


def _too_large(max_bytes: int) -> BodyTooLarge:
    limit = f"{max_bytes >> 20}MiB" if max_bytes % (1 << 20) == 0 else f"{max_bytes} bytes"
    return BodyTooLarge(f"Request body too large. The maximum allowed request body size is {limit}.")
