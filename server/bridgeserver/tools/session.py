"""One caller's session with one MCP server, in a task of its own: opened, kept, and opened again when it is lost.

The package `mcp` does the protocol. Importing this module takes half a second and tens of megabytes, so it is imported
where MCP servers are configured, and not by the loop that serves.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import httpx2
import mcp_types as types
import msgspec
import structlog
from mcp import Client, MCPError
from mcp.client.session import IncomingMessage
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from bridgeserver.config import McpServerConfig, ToolsConfig
from bridgeserver.errors import ToolError
from bridgeserver.secret import Secret
from bridgeserver.spans import span
from bridgeserver.tools.names import Filter
from bridgeserver.tools.schemas import accepted
from bridgeserver.tools.tool import ToolResult
from bridgeserver.tools.transport import DELETE_S, LOST, BoundedTransport

log = structlog.get_logger("bridgecore")
# It would print what servers answer; what matters of it is in the errors that are raised here.
logging.getLogger("mcp").setLevel(logging.CRITICAL + 1)

CLIENT: Final = types.Implementation(name="bridgecore", version=version("bridgecore"))

PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""Between two attempts to open a session; it doubles with each."""

STEADY_S = 5.0
"""A session that was there for so long is opened again at once."""

REFRESH_S = 1.0
"""Between two looks at the tools of a server that says again and again that they have changed."""

LISTEN_S = 5.0
"""Between the end of a stream of changes and the next one."""

GRACE_S = 5.0
"""For calls that run when their session is to be opened again: what ended it may be no concern of theirs."""

CLOSE_S = 4.0

PAGES = 100
"""Of tools that are read."""

TOOL_BYTES = 64 << 10
"""The longest description and schema of a tool, together; each request of each caller carries them."""

OFFERED_BYTES = 4 << 20
"""What is kept of the tools of a server; its pages could go on for as long as anybody listens."""

NAME_CHARS = 256

LEFT_OUT_NAMED = 10
"""Tools that a line of the log names."""

LIST_BYTES = 4 << 20
"""The longest answer that a server may give, if results may not be longer still."""

ENVELOPE_BYTES = 64 << 10

MESSAGE_CHARS = 500

SECRET_CHARS = 4
"""The shortest value of a header that is kept out of texts; a shorter one is no secret, and part of many words."""


class Listed(NamedTuple):
    """A tool as its server describes it."""

    name: str
    description: str
    schema: Mapping[str, Any]


class ServerSession:
    """Opened in the background from the moment it is made; `tools` is what the server offered last."""

    def __init__(
        self,
        server: McpServerConfig,
        token: Secret | None,
        config: ToolsConfig,
        context: ssl.SSLContext,
        on_change: Callable[["ServerSession"], None],
        pause_s: float = PAUSE_S,
    ) -> None:
        self.server = server
        self.tools: tuple[Listed, ...] = ()
        self.failure = "it has not answered yet"
        """Why the session is not there; nothing while it is."""
        self.is_refused = False
        """Whether that is because the server does not let this caller in."""
        self._headers = {name: value.reveal() for name, value in server.headers.items()}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token.reveal()}"
        self._secrets = _secrets(self._headers.values())
        self._config = config
        self._context = context
        self._on_change = on_change
        self._pause_s = pause_s
        self._filter = Filter(server.allow, server.deny)
        self._attributes = {
            "mcp_proxy_name": server.name,
            "mcp_server_name": server.name,
            "mcp_server_url": server.public_url,
        }
        self._client: Client | None = None
        self._attempted = asyncio.Event()
        self._connected = asyncio.Event()
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()
        self._stale = asyncio.Event()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._task = asyncio.create_task(self._run(), name=f"mcp:{server.name}")

    @property
    def is_connected(self) -> bool:
        """Whether the server can be asked."""
        return self._client is not None

    async def attempted(self) -> None:
        """Wait for the end of the first attempt to open the session, whether it opened or not."""
        await self._attempted.wait()

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Return what the server answers, also where that is an error of the tool's own. Raises ToolError."""
        timeout_s = self._config.call_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                client = await self._ready()
                try:
                    result = await self._send(client, tool, arguments)
                except MCPError as error:
                    if error.code != LOST:
                        raise
                    self._lose(client)  # the server has called nothing, so the call can be made in a new session
                    result = await self._send(await self._ready(), tool, arguments)
        except TimeoutError:
            raise ToolError(f"the server did not answer within {timeout_s:g} s") from None
        except MCPError as error:
            raise ToolError(self._told(error)) from None
        except ValidationError as error:
            raise ToolError(f"the server's answer is no result of a tool: {self._clean(_mistakes(error))}") from None
        content = tuple(block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in result.content)
        size = len(msgspec.json.encode(content or result.structured_content))
        if size > self._config.max_result_bytes:
            raise ToolError(f"the result has {size} bytes, and more than {self._config.max_result_bytes} are not taken")
        return ToolResult(content, result.structured_content, bool(result.is_error))

    async def close(self) -> None:
        """End the session; the server is told, if that does not take long."""
        self._closing.set()
        self._ended.set()
        if not self.is_connected:
            self._task.cancel()
        done, _pending = await asyncio.wait([self._task], timeout=CLOSE_S)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _ready(self) -> Client:
        if self._client is None:
            try:
                async with asyncio.timeout(self._config.connect_timeout_s):
                    await self._connected.wait()
            except TimeoutError:
                raise ToolError(f"the server cannot be reached: {self.failure}") from None
        if self._client is None:
            raise ToolError("the session with the server has ended")
        return self._client

    async def _send(self, client: Client, tool: str, arguments: Mapping[str, Any]) -> types.CallToolResult:
        # Not the package's `call_tool`: it runs a schema of the server's over its result, in the loop that serves.
        params = types.CallToolRequestParams(name=tool, arguments=dict(arguments))
        self._running += 1
        self._idle.clear()
        try:
            return await client.session.send_request(types.CallToolRequest(params=params), types.CallToolResult)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    def _lose(self, client: Client) -> None:
        if self._client is client:
            self._leave()
            self._ended.set()

    def _leave(self) -> None:
        """Let no call begin in the session that is there."""
        self._client = None
        self._connected.clear()

    async def _run(self) -> None:
        config, clock = self._config, asyncio.get_running_loop().time
        pause_s = 0.0
        try:
            while not self._closing.is_set():
                self._ended.clear()
                transport = BoundedTransport(
                    self._context,
                    connect_s=config.connect_timeout_s,
                    answer_s=config.call_timeout_s + DELETE_S,
                    answer_bytes=max(LIST_BYTES, 2 * config.max_result_bytes + ENVELOPE_BYTES),
                )
                began = clock()
                was_there = await self._hold(transport)
                is_steady = was_there and clock() - began >= STEADY_S
                pause_s = 0.0 if is_steady else min(max(self._pause_s, 2 * pause_s), LONGEST_PAUSE_S)
                if self._closing.is_set():
                    return
                self._attempted.set()
                self._on_change(self)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s * random.uniform(0.5, 1)):  # noqa: S311 - spreads load
                        await self._closing.wait()
        finally:
            self._attempted.set()
            self._connected.set()  # who waits for it learns that there is nothing to wait for

    async def _hold(self, transport: BoundedTransport) -> bool:
        """Open a session and keep it until it is lost or closed; return whether it was there."""
        was_there = False
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self._config.connect_timeout_s):
                    client = await self._opened(transport, stack)
                was_there = True
                self.failure = ""
                self._client = client
                self._connected.set()
                self._attempted.set()
                self._on_change(self)
                stack.enter_context(_beside(self._follow(client), self._ended))
                if self._tells_changes(client):
                    stack.enter_context(_beside(self._listen(client), self._ended))
                await self._ended.wait()
                self._leave()
                if not self._closing.is_set():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(GRACE_S):
                            await self._idle.wait()
        except Exception as error:  # whatever a server brings about, the session is opened again
            self.failure = self._reason(error, transport)
            self.is_refused = transport.status in {401, 403}
        finally:
            self._leave()
        return was_there

    async def _opened(self, transport: BoundedTransport, stack: AsyncExitStack) -> Client:
        with span("StreamableHTTPServerProxy.Init", self._attributes) as traced:
            try:
                http = httpx2.AsyncClient(
                    transport=transport,
                    headers={"user-agent": f"{CLIENT.name}/{CLIENT.version}", **self._headers},
                    trust_env=False,
                    max_redirects=0,
                )
                await stack.enter_async_context(http)
                size = transport.answer_bytes
                streams = streamable_http_client(self.server.url, http_client=http, max_sse_event_size=size)
                client = Client(streams, client_info=CLIENT, message_handler=self._on_message, cache=None)
                await stack.enter_async_context(client)
                self.tools = await self._listed(client)
            except Exception as error:
                traced.fail(self._reason(error, transport))
                raise
        return client

    async def _on_message(self, message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._stale.set()

    @staticmethod
    def _tells_changes(client: Client) -> bool:
        """Whether changes have to be asked for, as since the version of 2026; older servers just tell."""
        tools = client.server_capabilities.tools
        return client.protocol_version in MODERN_PROTOCOL_VERSIONS and tools is not None and bool(tools.list_changed)

    async def _listen(self, client: Client) -> None:
        while True:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    self._stale.set()  # for what changed before
                    async for _change in changes:
                        self._stale.set()
            except (SubscriptionLost, MCPError) as error:
                log.debug("mcp_changes_lost", server=self.server.name, reason=self._clean(str(error)))
            await asyncio.sleep(LISTEN_S)

    async def _follow(self, client: Client) -> None:
        """Read the tools again whenever the server says that they have changed."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            async with asyncio.timeout(self._config.connect_timeout_s):
                tools = await self._listed(client)
            if tools != self.tools:
                self.tools = tools
                self._on_change(self)
            await asyncio.sleep(REFRESH_S)

    async def _listed(self, client: Client) -> tuple[Listed, ...]:
        """Return the tools that are offered of those that the server has, ordered by name."""
        with span("StreamableHTTPServerProxy.Init.fetchTools", self._attributes) as traced:
            found: dict[str, Listed] = {}
            left_out: list[str] = []
            count = held = 0
            cursor: str | None = None
            for _page in range(PAGES):
                page = await client.list_tools(cursor=cursor)
                count += len(page.tools)
                for tool in page.tools:
                    if not self._filter.takes(tool.name):
                        continue
                    listed = Listed(tool.name, tool.description or "", accepted(tool.input_schema))
                    size = _size(listed)
                    if size > TOOL_BYTES or held + size > OFFERED_BYTES:
                        left_out.append(tool.name[:NAME_CHARS])
                    else:
                        held += size
                        found[tool.name] = listed
                del left_out[LEFT_OUT_NAMED:]
                cursor = page.next_cursor
                if not cursor:
                    break
            traced.set("mcp_tool_count", count)
        if left_out:
            reason = (
                f"name, description and schema of a tool may have {TOOL_BYTES} bytes together, "
                f"and those of all tools {OFFERED_BYTES}"
            )
            log.warning("mcp_tools_left_out", server=self.server.name, tools=left_out, reason=reason)
        return tuple(found[name] for name in sorted(found))

    def _reason(self, error: Exception, transport: BoundedTransport) -> str:
        while isinstance(error, ExceptionGroup):
            inner: tuple[Exception, ...] = error.exceptions  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            error = inner[0]
        if isinstance(error, TimeoutError):
            return f"it did not answer within {self._config.connect_timeout_s:g} s"
        if isinstance(error, MCPError):
            return transport.failure or self._clean(str(error))
        return self._clean(f"{type(error).__name__}: {error}")

    def _told(self, error: MCPError) -> str:
        return self._clean(str(error)) or f"the server answered with error {error.code} and did not say why"

    def _clean(self, text: str) -> str:
        """Return what may be told of a text, which may be the server's: not long, and without what it was shown."""
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return " ".join(text[: 4 * MESSAGE_CHARS].split())[:MESSAGE_CHARS]


@contextmanager
def _beside(work: Coroutine[Any, Any, None], ended: asyncio.Event) -> Generator[None]:
    """Let *work* run meanwhile; should it end by itself, *ended* is set."""

    def end(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            error = task.exception()
            log.debug("mcp_session_ends", reason=type(error).__name__)
            ended.set()

    task = asyncio.create_task(work)
    task.add_done_callback(end)
    try:
        yield
    finally:
        task.cancel()


def _secrets(values: Iterable[str]) -> list[str]:
    """Return what has to be kept out of texts: the values of headers, also without the name of their scheme."""
    parts = {part for value in values for part in (value, value.partition(" ")[2])}
    return sorted((part for part in parts if len(part) >= SECRET_CHARS), key=len, reverse=True)


def _mistakes(error: ValidationError) -> str:
    """Return what is wrong with a result, and nothing of what is in it: whether that is recorded is a choice."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}" for mistake in found)


def _size(tool: Listed) -> int:
    return len(tool.name) + len(tool.description) + len(msgspec.json.encode(tool.schema))
