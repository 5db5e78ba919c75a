"""What the gateway serves at one time, as one snapshot that never changes: providers, connections to them, MCP servers.

A request takes the generation in force once, when it begins, and keeps it to its end.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType

from bridgeserver.config import McpServerConfig, ToolsConfig
from bridgeserver.errors import NotFound, ProviderBroken
from bridgeserver.providers import Provider, Route
from bridgeserver.request import check_path, provider_name
from bridgeserver.upstream import Origin, Upstream


class Generation:
    """One immutable snapshot; a change of the configuration makes another one."""

    __slots__ = ("_bridged", "_broken", "_upstreams", "mcp_servers", "number", "providers", "tools")

    def __init__(
        self,
        number: int,
        providers: Mapping[str, Provider],
        upstreams: Mapping[Origin, Upstream] | None = None,
        broken: Collection[str] = (),
        mcp_servers: tuple[McpServerConfig, ...] = (),
        tools: ToolsConfig | None = None,
    ) -> None:
        self.number = number
        self.mcp_servers = mcp_servers
        self.tools = tools or ToolsConfig()
        self._broken = frozenset(broken)
        self.providers = MappingProxyType(dict(providers))
        self._upstreams = dict(upstreams or {})
        # By the whole path, so that the requests that matter need one look-up.
        self._bridged = {
            path: (provider, route)
            for provider in providers.values()
            if provider.enabled
            for path, route in provider.bridged_routes()
        }

    def route(self, method: str, path: str) -> tuple[Provider, Route]:
        """Return where a request with this raw path goes; raise BadRequest or what `provider` raises."""
        found = self._bridged.get(path)
        if found is not None and method == "POST":
            return found
        check_path(path)
        provider = self.provider(method, path)
        return provider, provider.route(method, path)

    def is_bridged(self, path: str) -> bool:
        """Whether this raw path is a bridged route of a provider that is switched on."""
        return path in self._bridged

    def provider(self, method: str, path: str) -> Provider:
        """Return the provider that a path names; raise NotFound, ProviderBroken or ProviderDisabled."""
        name = provider_name(path)
        provider = self.providers.get(name)
        if provider is None:
            if name in self._broken:
                raise ProviderBroken(
                    f'AI provider "{name}" cannot be used as it is configured; '
                    "the gateway's log and the detail of its readiness say why"
                )
            raise NotFound(f"route not supported: {method} {path}")
        provider.check_enabled()
        return provider

    def upstream(self, origin: Origin) -> Upstream:
        """Return the connections to the origin of one of the providers."""
        return self._upstreams[origin]
