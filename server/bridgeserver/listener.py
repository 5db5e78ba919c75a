"""The parent's own address for health and metrics, so that workers that are full or hang never hide them.

Whoever reaches it needs no key, and it says nothing that changes anything. It is the workers' HTTP server with limits
that suit a scraper: a few connections, small heads, and an end to those who send or read too slowly.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog
import uvloop

from bridgecore import Reply, Request, Server
from bridgeserver import health
from bridgeserver.asks import Answer, Ask, refusal
from bridgeserver.errors import BridgeError
from bridgeserver.tokens import redact

log = structlog.get_logger("bridgecore")

MAX_CONNECTIONS = 64
MAX_HEAD_BYTES = 8192
TIMEOUT_S = 15.0
"""How long a head may take, a connection may wait for the next request, and an answer may take to be read."""

PATHS = {health.READINESS, health.METRICS}


class Listener:
    """Serves from a thread of its own for as long as the parent runs."""

    def __init__(self, host: str, port: int, answer: Callable[[Ask], Answer], tls: ssl.SSLContext | None) -> None:
        """Bind the address. Raises BridgeError if it is taken or is none of this machine's."""
        self._answer = answer
        self._tls = tls
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family)
        except OSError as exc:
            raise BridgeError(
                f"cannot listen on {host}:{port}: {exc.strerror}; choose another [server] admin_listen"
            ) from exc
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        """Where it listens, also where the port was left to the system."""
        self._loop = uvloop.new_event_loop()
        self._stopped = asyncio.Event()
        # One at a time: a scrape of thousands of series holds the interpreter, and the shipper needs it too.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="admin")
        self._thread = threading.Thread(target=self._run, name="admin", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """End it, with what is under way."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()
        self._loop.close()
        self._socket.close()
        self._executor.shutdown(wait=False)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        server = Server(
            loop,
            self._respond,
            timeout_s=TIMEOUT_S,
            max_connections=MAX_CONNECTIONS,
            max_head_bytes=MAX_HEAD_BYTES,
        )
        listening = await loop.create_server(server, sock=self._socket, ssl=self._tls)
        await self._stopped.wait()
        listening.close()
        server.abort()

    async def _respond(self, request: Request, reply: Reply) -> None:
        try:
            health.send(reply, await self._answer_to(request))
        finally:
            reply.close()

    async def _answer_to(self, request: Request) -> Answer:
        if request.head_bytes > MAX_HEAD_BYTES:
            return refusal(431, f"the head has {request.head_bytes} bytes; at most {MAX_HEAD_BYTES} are accepted")
        if request.path != health.HEALTH and request.path not in PATHS:
            return refusal(404, f"route not supported: {request.method} {redact(request.path)}")
        if request.method not in health.READ:
            return refusal(405, f"method not allowed: {request.method}; use GET or HEAD", {"allow": "GET, HEAD"})
        if request.path == health.HEALTH:
            return Answer(200, b"ok\n", "text/plain; charset=utf-8")
        ask = Ask("GET", request.path, "", b"", "admin_listen", is_admin=True)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._answer, ask)
