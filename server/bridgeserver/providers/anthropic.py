"""Anthropic: the version is part of the route, so its base URL has none."""

from bridgeserver.protocols.messages import Messages
from bridgeserver.providers.provider import ProviderType

TYPE = ProviderType(
    name="anthropic",
    prefix="",
    bridged={"/v1/messages": Messages()},
    passthrough=frozenset({"/v1/models", "/v1/messages/count_tokens"}),
    subtrees=("/v1/models/", "/api/event_logging/"),
    error_protocol=Messages(),
)
