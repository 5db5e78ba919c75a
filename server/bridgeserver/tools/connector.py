"""From a caller and a generation to the caller's tools, without waiting for servers that are known to be away."""

import asyncio
import importlib
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import structlog

from bridgeserver.config import McpServerConfig
from bridgeserver.errors import BridgeError
from bridgeserver.generation import Generation
from bridgeserver.identity import Caller
from bridgeserver.secret import Secret
from bridgeserver.spans import span
from bridgeserver.tools.tool import Toolbox
from bridgeserver.usertokens import UserTokens

if TYPE_CHECKING:
    from bridgeserver.tools.session import ServerSession

log = structlog.get_logger("bridgecore")

WAIT_S = 20.0
"""How long a caller's first request waits for servers at most, whatever the configuration says."""

AWAY_S = 30.0
"""How long nobody waits for a server that could not be reached."""

QUIET_S = 60.0
"""Between two lines in the log about a server that goes on failing; each caller has a session of its own."""


class Connector:
    """Opens the sessions of callers; one a worker."""

    def __init__(self, tokens: UserTokens, clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens = tokens
        self._clock = clock
        self._away: dict[str, float] = {}  # by URL: a server whose address was mended is not away
        self._quiet: dict[str, float] = {}
        self._context: ssl.SSLContext | None = None
        self._loading: asyncio.Future[tuple[ModuleType, ModuleType]] | None = None

    def prepare(self) -> None:
        """Begin to import what the sessions need, which takes half a second, in a thread."""
        if self._loading is None:
            self._loading = asyncio.get_running_loop().run_in_executor(None, _load)

    async def connect(self, caller: Caller, generation: Generation) -> Toolbox | None:
        """Return what the caller has of the generation's MCP servers, or None if there are none.

        Returns when each server has answered or failed, but for those that failed a moment ago and those that take too
        long; they are tried on in the background, and their tools come when they do.
        """
        servers = [server for server in generation.mcp_servers if server.enabled]
        if not servers:
            return None
        tokens: Mapping[str, Secret] = {}
        if any(server.user_token for server in servers):
            try:
                tokens = await self._tokens.of(caller.user_id)
            except BridgeError as error:
                log.warning("mcp_tokens_unread", user=caller.user_name, reason=str(error))
        chosen = [server for server in servers if not server.user_token or server.name in tokens]
        return await self._open(chosen, tokens, generation) if chosen else None

    async def _open(
        self, servers: Sequence[McpServerConfig], tokens: Mapping[str, Secret], generation: Generation
    ) -> Toolbox:
        self.prepare()
        assert self._loading is not None  # noqa: S101 - `prepare` has set it
        session, toolbox = await asyncio.shield(self._loading)
        if self._context is None:
            self._context = await asyncio.to_thread(ssl.create_default_context)
        config = generation.tools
        with span("ServerProxyManager.Init", {}):
            opens = [
                partial(
                    session.ServerSession,
                    server,
                    tokens[server.name] if server.user_token else None,
                    config,
                    self._context,
                )
                for server in servers
            ]
            box: Any = toolbox.Sessions(opens, config, self._note)
            try:
                awaited = [server.name for server in servers if not self._is_away(server)]
                await box.wait(awaited, min(config.connect_timeout_s, WAIT_S))
            except BaseException:
                await box.close()
                raise
        found: Toolbox = box
        return found

    def _is_away(self, server: McpServerConfig) -> bool:
        return self._clock() < self._away.get(server.url, 0.0)

    def _note(self, session: "ServerSession") -> None:
        name, url = session.server.name, session.server.url
        if session.is_connected:
            if self._away.pop(url, None) is not None:
                self._quiet.pop(name, None)
                log.warning("mcp_server_back", server=name)
            return
        now = self._clock()
        if not session.is_refused:  # else it is there, and does not want this user
            self._away[url] = now + AWAY_S
        if now >= self._quiet.get(name, 0.0):
            self._quiet[name] = now + QUIET_S
            log.warning("mcp_server_failed", server=name, reason=session.failure)


def _load() -> tuple[ModuleType, ModuleType]:
    return importlib.import_module("bridgeserver.tools.session"), importlib.import_module("bridgeserver.tools.toolbox")
