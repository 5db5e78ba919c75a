"""A tool of an MCP server, and what a call of it gives."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec


class Tool(msgspec.Struct, frozen=True):
    """One tool as its server describes it."""

    id: str
    """By which the model calls it, legal for every provider: at most 64 letters, digits, `_` and `-`."""
    name: str
    """By which its server knows it."""
    server: str
    server_url: str
    """Without its query, which may hold a secret."""
    description: str
    schema: Mapping[str, Any]
    """The JSON Schema of its arguments, which is an object."""


class ToolResult(msgspec.Struct, frozen=True):
    """What a server answered to a call."""

    content: tuple[Mapping[str, Any], ...]
    """The content blocks as the specification of MCP spells them in JSON."""
    structured: Mapping[str, Any] | None = None
    is_error: bool = False
    """Whether the tool itself says that it failed; the model is told what it says."""


class Catalog:
    """The tools that one caller has at one time, ordered by their ids; never changes."""

    __slots__ = ("_by_id", "_prepared", "tools")

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self.tools = tuple(sorted(tools, key=lambda tool: tool.id))
        self._by_id = {tool.id: tool for tool in self.tools}
        self._prepared: dict[str, bytes] = {}

    def find(self, tool_id: str) -> Tool | None:
        """Return the tool that the model calls by that id."""
        return self._by_id.get(tool_id)

    def prepared(self, name: str, prepare: Callable[[tuple[Tool, ...]], bytes]) -> bytes:
        """Return what *prepare* makes of the tools; it is kept by *name*, and made once."""
        found = self._prepared.get(name)
        if found is None:
            found = self._prepared[name] = prepare(self.tools)
        return found


class Toolbox(Protocol):
    """The MCP sessions of one caller."""

    @property
    def catalog(self) -> Catalog:
        """The tools at hand; another one as soon as a server's tools change, or it comes back."""
        ...

    @property
    def sessions(self) -> int:
        """How many there are."""
        ...

    @property
    def is_degraded(self) -> bool:
        """Whether a configured server could not be reached."""
        ...

    async def call(self, tool: Tool, arguments: Mapping[str, Any], /) -> ToolResult:
        """Return what the tool's server answers; raise ToolError where it gives no answer that can be used."""
        ...

    async def close(self) -> None:
        """End the sessions."""
        ...
