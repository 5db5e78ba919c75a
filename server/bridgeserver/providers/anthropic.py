"""Anthropic: the version is part of the route, so its base URL has none."""

from bridgeserver.protocols.messages import Messages
from bridgeserver.providers.provider import MAKE, READ, ProviderType

TYPE = ProviderType(
    name="anthropic",
    prefix="",
    bridged={"/v1/messages": Messages()},
    passthrough={"/v1/models": READ, "/v1/messages/count_tokens": MAKE},
    subtrees={"/v1/models/": READ, "/api/event_logging/": MAKE},
    error_protocol=Messages(),
)
