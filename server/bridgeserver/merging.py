"""The providers and MCP servers that take effect: those of the configuration, and those of the store."""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import msgspec

from bridgeserver.config import BrokenProvider, McpServerConfig, ProviderConfig
from bridgeserver.store.stored import LoadedProviders, LoadedServers, ProviderError

T = TypeVar("T", ProviderConfig, McpServerConfig)


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """The providers to serve, and those of the store that cannot be."""

    providers: tuple[ProviderConfig, ...]
    errors: tuple[ProviderError, ...]
    broken: tuple[BrokenProvider, ...] = ()
    """Those of the configuration that cannot be."""


def merge(
    configured: tuple[ProviderConfig, ...], loaded: LoadedProviders, configured_wrongly: tuple[BrokenProvider, ...] = ()
) -> Merged:
    """Return the providers of both: a stored one replaces the configured one of its name whole.

    A stored one that cannot be used hides the configured one as well: whoever stored it did not mean that one. An
    override switches a configured provider and no stored one.
    """
    broken = {error.name for error in loaded.errors}
    replaced = {*(provider.name for provider in loaded.providers), *broken}
    return Merged(
        providers=_united(configured, loaded.providers, broken, loaded.overrides),
        errors=loaded.errors,
        broken=tuple(provider for provider in configured_wrongly if provider.name not in replaced),
    )


def merge_servers(configured: Sequence[McpServerConfig], loaded: LoadedServers) -> tuple[McpServerConfig, ...]:
    """Return the MCP servers of both, by the same rules."""
    broken = {error.name for error in loaded.errors}
    return _united(configured, loaded.servers, broken, loaded.overrides)


def _united(
    configured: Sequence[T], stored: Sequence[T], broken: Collection[str], overrides: Mapping[str, bool]
) -> tuple[T, ...]:
    left = {item.name: item for item in stored}
    found: list[T] = []
    for item in configured:
        if item.name in left:
            found.append(left.pop(item.name))
        elif item.name not in broken:
            found.append(msgspec.structs.replace(item, enabled=overrides.get(item.name, item.enabled)))
    return tuple(found + list(left.values()))
