"""The provider types, one file each, and what a provider is: base URL, routes, credentials, headers.

Nothing here does I/O: a `Provider` is built once from the configuration and turns a client's request into the
head of an upstream request.
"""

from collections import Counter

from bridgeserver.config import ProviderConfig
from bridgeserver.errors import ConfigError
from bridgeserver.providers import anthropic, openai
from bridgeserver.providers.provider import Credential, Provider, Route

__all__ = ["Credential", "Provider", "Route", "build"]

TYPES = {"anthropic": anthropic.TYPE, "openai": openai.TYPE}


def build(configs: tuple[ProviderConfig, ...]) -> dict[str, Provider]:
    """Return the providers by their name, which is the first segment of their paths.

    Raises ConfigError if two have the same.
    """
    counts = Counter(config.name for config in configs)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ConfigError([f"providers: found {name!r} twice, expected a name of its own for each" for name in twice])
    return {config.name: Provider(config, TYPES[config.type]) for config in configs}
