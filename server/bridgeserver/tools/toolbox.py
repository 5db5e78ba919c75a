"""The sessions of one caller, and what they offer together."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from bridgeserver.config import ToolsConfig
from bridgeserver.errors import ToolError
from bridgeserver.tools.names import id_of
from bridgeserver.tools.session import ServerSession
from bridgeserver.tools.tool import Catalog, Tool, ToolResult

log = structlog.get_logger("bridgecore")

Open = Callable[[Callable[[ServerSession], None]], ServerSession]
"""Makes a session that calls back whenever it is there, is gone, or offers something else."""


class Sessions:
    """One caller's toolbox."""

    def __init__(self, opens: Sequence[Open], config: ToolsConfig, on_attempt: Callable[[ServerSession], None]) -> None:
        self._config = config
        self._on_attempt = on_attempt
        self._catalog = Catalog()
        self._sessions: dict[str, ServerSession] = {}
        for make in opens:
            session = make(self._changed)
            self._sessions[session.server.name] = session

    @property
    def catalog(self) -> Catalog:
        """The tools at hand."""
        return self._catalog

    @property
    def sessions(self) -> int:
        """How many there are."""
        return len(self._sessions)

    @property
    def is_degraded(self) -> bool:
        """Whether a server is not there."""
        return not all(session.is_connected for session in self._sessions.values())

    async def wait(self, names: Sequence[str], timeout_s: float) -> None:
        """Wait until each of these servers has been tried, but not longer than *timeout_s*."""
        waiting = [asyncio.create_task(self._sessions[name].attempted()) for name in names]
        if not waiting:
            return
        try:
            await asyncio.wait(waiting, timeout=timeout_s)
        finally:
            for task in waiting:
                task.cancel()

    async def call(self, tool: Tool, arguments: Mapping[str, Any], /) -> ToolResult:
        """Return what the tool's server answers; raise ToolError where it gives no answer that can be used."""
        session = self._sessions.get(tool.server)
        if session is None:
            raise ToolError(f'there is no server "{tool.server}"')
        return await session.call(tool.name, arguments)

    async def close(self) -> None:
        """End the sessions, side by side."""
        await asyncio.gather(*(session.close() for session in self._sessions.values()), return_exceptions=True)

    def _changed(self, session: ServerSession) -> None:
        self._on_attempt(session)
        tools = list(self._offered())
        if len(tools) > self._config.max_tools:
            log.warning(
                "mcp_tools_left_out",
                tools=len(tools) - self._config.max_tools,
                reason=f"there are {len(tools)}, and [tools] max_tools is {self._config.max_tools}; narrow `allow`",
            )
            del tools[self._config.max_tools :]
        if tools != list(self._catalog.tools):
            self._catalog = Catalog(tools)

    def _offered(self) -> list[Tool]:
        found: dict[str, Tool] = {}
        for session in self._sessions.values():
            server = session.server
            for tool in session.tools:
                tool_id = id_of(server.name, tool.name)
                offered = Tool(tool_id, tool.name, server.name, server.public_url, tool.description, tool.schema)
                found.setdefault(tool_id, offered)
        return [found[tool_id] for tool_id in sorted(found)]
