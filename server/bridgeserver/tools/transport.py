"""HTTP to an MCP server, with bounds, and with answers where httpx raises.

An exception in the transport of the package `mcp` ends the whole session, and with it all calls that run. Here every
failure of a request becomes a JSON-RPC error, which ends that request and says why.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from typing import Final

import httpx2
import msgspec

UNREACHABLE: Final = -32050
REFUSED: Final = -32051
LOST: Final = -32052
"""Codes of JSON-RPC errors that are made here; the range is left to implementations."""

GET_PAUSE_S = 5.0
"""Between two beginnings of the stream of a server's notifications: one that ends at once must not become a storm."""

DELETE_S = 2.0
"""How long the end of a session may take."""

SESSION_ID = "mcp-session-id"

OLDER = frozenset([400, 404, 405])
"""By these a server says that it does not speak the newest version of the protocol; an older one is tried then."""


class BoundedTransport(httpx2.AsyncBaseTransport):
    """Connections of one session, which nobody else uses."""

    def __init__(self, context: ssl.SSLContext, *, connect_s: float, answer_s: float, answer_bytes: int) -> None:
        self._inner = httpx2.AsyncHTTPTransport(verify=context, trust_env=False)
        self._connect_s = connect_s
        self._answer_s = answer_s
        self.answer_bytes = answer_bytes
        self._next_get = 0.0
        self.status = 0
        """Of the last answer."""
        self.failure = ""
        """Why the last request that failed did; the package does not say."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request."""
        if request.method == "GET":
            await self._wait_for_turn()
        request.headers["accept-encoding"] = "identity"
        request.extensions = {**request.extensions, "timeout": self._timeout(request.method).as_dict()}
        try:
            response = await self._inner.handle_async_request(request)
        except httpx2.TransportError as error:
            return self._failed(502, UNREACHABLE, _said(error))
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":  # a small answer can become a huge one
            await response.aclose()
            return self._failed(502, REFUSED, "the server encodes its answers, although that was not asked for")
        status = self.status = response.status_code
        if status >= 400:
            self.failure = f"the server answered with status {status}"
        if status == 404 and SESSION_ID in request.headers and request.method == "POST":
            await response.aclose()
            return self._failed(404, LOST, "the server no longer knows the session")
        if status >= 400 and status not in OLDER and not _is_json(response) and request.method == "POST":
            await response.aclose()
            return self._failed(status, REFUSED, self.failure)
        if request.method == "GET":
            return response
        assert isinstance(response.stream, httpx2.AsyncByteStream)  # noqa: S101 - an asynchronous transport gives no other
        if not _is_json(response):
            # An event that is too long is found by who reads the events; this bounds what is no event.
            response.stream = _Bounded(response.stream, 2 * self.answer_bytes)
            return response
        try:
            body = b"".join([piece async for piece in _Bounded(response.stream, self.answer_bytes)])
        except httpx2.StreamError as error:
            return self._failed(502, REFUSED, str(error))
        finally:
            await response.aclose()
        return httpx2.Response(status, headers=response.headers, content=body)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()

    async def _wait_for_turn(self) -> None:
        now = asyncio.get_running_loop().time()
        begin = max(now, self._next_get)
        self._next_get = begin + GET_PAUSE_S
        if begin > now:
            await asyncio.sleep(begin - now)

    def _timeout(self, method: str) -> httpx2.Timeout:
        answer_s = {"GET": None, "DELETE": DELETE_S}.get(method, self._answer_s)
        connect_s = DELETE_S if method == "DELETE" else self._connect_s
        return httpx2.Timeout(connect_s, read=answer_s)

    def _failed(self, status: int, code: int, message: str) -> httpx2.Response:
        self.failure = message
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}})
        return httpx2.Response(status, headers={"content-type": "application/json"}, content=body)


class _Bounded(httpx2.AsyncByteStream):
    """A body that breaks off with a StreamError, which the package expects, whatever the reason."""

    def __init__(self, inner: httpx2.AsyncByteStream, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        size = 0
        try:
            async for piece in self._inner:
                size += len(piece)
                if size > self._limit:
                    raise httpx2.StreamError(f"the server's answer is longer than {self._limit} bytes")
                yield piece
        except httpx2.TransportError as error:
            raise httpx2.StreamError(_said(error)) from error

    async def aclose(self) -> None:
        await self._inner.aclose()


def _is_json(response: httpx2.Response) -> bool:
    return response.headers.get("content-type", "").lower().startswith("application/json")


def _said(error: httpx2.TransportError) -> str:
    kind = type(error).__name__
    return f"{kind}: {error}" if str(error) else kind
