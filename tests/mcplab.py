"""MCP servers in processes of their own, sessions with them, and gateways that have their tools."""

import asyncio
import http.client
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import gateway as gateways
from bridgeserver.config import McpServerConfig, ToolsConfig
from bridgeserver.secret import Secret
from bridgeserver.tools.session import ServerSession
from gateway import Gateway

SCRIPT = Path(__file__).with_name("mcpserver.py")

PATIENCE_S = 20.0
"""How long a test waits for an event that has to come."""


class McpServer:
    """A running `mcpserver.py`."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        self.start()

    def start(self) -> None:
        """Start it, at its old address if it has had one."""
        port = [f"--port={urlsplit(self.url).port}"] if self.url else []
        command = [sys.executable, str(SCRIPT), *self._options, *port]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the server did not start"

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not killed since."""
        return self._process is not None

    def ask(self, path: str, body: str | None = None) -> Any:
        """Return what one of the server's own pages says."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE_S)
        try:
            connection.request("GET" if body is None else "POST", path, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    @contextmanager
    def mode(self, mode: str) -> Generator[None]:
        """Let it misbehave for a while."""
        self.ask("/mode", mode)
        try:
            yield
        finally:
            self.ask("/mode", "fine")

    def asked(self, rpc: str) -> list[dict[str, Any]]:
        """Return the requests of that method that it got."""
        return [each for each in self.ask("/seen") if each["rpc"] == rpc]

    def config(self, name: str = "lab", **options: Any) -> McpServerConfig:
        """Return it as an operator would configure it."""
        return McpServerConfig(name=name, url=self.url, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()


@contextmanager
def serving(folder: Path, upstream: str, server: McpServer, more: str = "") -> Generator[Gateway]:
    """Run a gateway with the server's tools."""
    tools = f"""
[[mcp_servers]]
name = "lab"
url = "{server.url}"
headers = {{ X-Team = "blue" }}
{more}
"""
    gateways.write_config(folder, upstream, more=tools)
    with gateways.running(folder) as gateway:
        yield gateway


def recorded(gateway: Gateway, table: str, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what one record has in another table, in its order."""
    rows = gateways.tables(gateway.folder, [table])[table]
    return sorted((row for row in rows if row["interception_id"] == record["id"]), key=lambda row: row["seq"])


class Held:
    """A session, and what it told."""

    def __init__(self, config: McpServerConfig, token: str | None, options: ToolsConfig) -> None:
        self.changes = asyncio.Event()
        context = ssl.create_default_context()
        secret = None if token is None else Secret(token)
        self.session = ServerSession(config, secret, options, context, self._changed, pause_s=0.01)

    def _changed(self, _session: ServerSession) -> None:
        self.changes.set()

    async def until(self, is_so: Callable[[ServerSession], bool]) -> None:
        """Wait until it is so."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_so(self.session):
                await self.changes.wait()
                self.changes.clear()

    async def listening(self, server: McpServer) -> None:
        """Wait until the server was asked to tell changes, in the way of either generation."""
        async with asyncio.timeout(PATIENCE_S):
            while not [
                each
                for each in await asyncio.to_thread(server.ask, "/seen")
                if each["method"] == "GET" or each["rpc"] == "subscriptions/listen"
            ]:
                await asyncio.sleep(0.01)

    async def said(self, tool: str, **arguments: Any) -> str:
        """Return the text that a tool answers."""
        result = await self.session.call(tool, arguments)
        return "\n".join(block["text"] for block in result.content)

    def names(self) -> list[str]:
        """Return the names of the tools."""
        return [tool.name for tool in self.session.tools]


@asynccontextmanager
async def session_with(config: McpServerConfig, *, token: str | None = None, **options: Any) -> AsyncGenerator[Held]:
    """Hold a session whose first attempt has ended."""
    held = Held(config, token, ToolsConfig(**options))
    try:
        async with asyncio.timeout(PATIENCE_S):
            await held.session.attempted()
        yield held
    finally:
        await held.session.close()
