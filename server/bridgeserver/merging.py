"""The providers that take effect: those of the configuration, and those of the store."""

import msgspec

from bridgeserver.config import BrokenProvider, ProviderConfig
from bridgeserver.store.stored import LoadedProviders, ProviderError


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
    stored = {provider.name: provider for provider in loaded.providers}
    broken = {error.name for error in loaded.errors}
    providers: list[ProviderConfig] = []
    for provider in configured:
        if provider.name in stored:
            providers.append(stored.pop(provider.name))
        elif provider.name not in broken:
            enabled = loaded.overrides.get(provider.name, provider.enabled)
            providers.append(msgspec.structs.replace(provider, enabled=enabled))
    replaced = {*stored, *broken}
    return Merged(
        providers=(*providers, *stored.values()),
        errors=loaded.errors,
        broken=tuple(provider for provider in configured_wrongly if provider.name not in replaced),
    )
