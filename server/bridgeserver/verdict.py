"""What of the merged providers can be served, and what is said of each of them and of each MCP server."""

from collections.abc import Sequence

from bridgeserver.config import McpServerConfig, ProviderConfig
from bridgeserver.errors import BridgeError
from bridgeserver.merging import Merged
from bridgeserver.providers import build
from bridgeserver.status import McpServerStatus, ProviderStatus
from bridgeserver.store.stored import LoadedProviders, LoadedServers


def judge(merged: Merged, loaded: LoadedProviders) -> tuple[tuple[ProviderConfig, ...], tuple[ProviderStatus, ...]]:
    """Return the providers that can be served, and the status of all by their name."""
    stored = {provider.name for provider in loaded.providers}
    good: list[ProviderConfig] = []
    statuses = [
        ProviderStatus(error.name, error.type, "error", error.reason, "store", "", 0) for error in merged.errors
    ]
    statuses += [
        ProviderStatus(broken.name, broken.type, "error", broken.reason, "file", "", 0) for broken in merged.broken
    ]
    for provider in merged.providers:
        error = _error_of(provider)
        if error is None:
            good.append(provider)
        is_stored = provider.name in stored
        statuses.append(
            ProviderStatus(
                name=provider.name,
                type=provider.type,
                status="error" if error else "enabled" if provider.enabled else "disabled",
                reason=error or ("overridden" if provider.name in loaded.overrides and not is_stored else ""),
                source="store" if is_stored else "file",
                base_url=provider.base_url,
                key_count=len(provider.keys),
            )
        )
    return tuple(good), tuple(sorted(statuses, key=lambda status: status.name))


def judge_servers(merged: Sequence[McpServerConfig], loaded: LoadedServers) -> tuple[McpServerStatus, ...]:
    """Return the status of all MCP servers by their name; those that were merged can be used."""
    stored = {server.name for server in loaded.servers}
    statuses = [
        McpServerStatus(error.name, "", "error", error.reason, "store", error.user_token) for error in loaded.errors
    ]
    statuses += [
        McpServerStatus(
            name=server.name,
            url=server.public_url,
            status="enabled" if server.enabled else "disabled",
            reason="overridden" if server.name in loaded.overrides.keys() - stored else "",
            source="store" if server.name in stored else "file",
            user_token=server.user_token,
            allow=server.allow,
            deny=server.deny,
        )
        for server in merged
    ]
    return tuple(sorted(statuses, key=lambda status: status.name))


def _error_of(provider: ProviderConfig) -> str | None:
    try:
        build((provider,))
    except BridgeError as exc:
        return str(exc)
    return None
