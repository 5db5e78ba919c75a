"""The provider types, one file each, and what a provider is: base URL, routes, credentials, headers.

Nothing here does I/O: a `Provider` is built once from the configuration and turns a client's request into the
head of an upstream request.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping

from bridgeserver.config import ProviderConfig
from bridgeserver.errors import ConfigError
from bridgeserver.providers import anthropic, bedrock, copilot, openai
from bridgeserver.providers.provider import Outgoing, Provider, Route, Translation

__all__ = ["Outgoing", "Provider", "Route", "Translation", "build"]

TYPES = {kind.name: kind for kind in (anthropic.TYPE, copilot.TYPE, openai.TYPE)}


def build(
    configs: tuple[ProviderConfig, ...],
    before: Mapping[str, Provider] | None = None,
    counters: Counter[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Provider]:
    """Return the providers by their name, which is the first segment of their paths.

    One whose configuration is as it was *before* stays what it is: what its keys have met with is not forgotten because
    something else was changed. Raises ConfigError if two have the same name.
    """
    counts = Counter(config.name for config in configs)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ConfigError([f"providers: found {name!r} twice, expected a name of its own for each" for name in twice])
    providers: dict[str, Provider] = {}
    for config in configs:
        same = before.get(config.name) if before else None
        if same is None or same.config != config:
            same = _provider(config, counters, clock)
        providers[config.name] = same
    return providers


def _provider(config: ProviderConfig, counters: Counter[str] | None, clock: Callable[[], float]) -> Provider:
    if config.type == "bedrock":
        return bedrock.BedrockProvider(config, counters, clock)
    return Provider(config, TYPES[config.type], counters, clock)
