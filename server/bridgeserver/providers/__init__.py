"""The provider types, one file each, and what a provider is: base URL, routes, credentials, headers.

Nothing here does I/O: a `Provider` is built once from the configuration and turns a client's request into the
head of an upstream request.
"""

from bridgeserver.config import ProviderConfig
from bridgeserver.providers import anthropic, openai
from bridgeserver.providers.provider import Credential, Provider, Route

__all__ = ["Credential", "Provider", "Route", "build"]

TYPES = {"anthropic": anthropic.TYPE, "openai": openai.TYPE}


def build(configs: tuple[ProviderConfig, ...]) -> dict[str, Provider]:
    """Return the providers by their name, which is the first segment of their paths."""
    return {config.name: Provider(config, TYPES[config.type]) for config in configs}
