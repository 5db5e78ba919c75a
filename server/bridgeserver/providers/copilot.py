"""GitHub Copilot: speaks all three protocols, without a version in its paths, and every caller brings his own token."""

from bridgeserver.protocols.chat import Chat
from bridgeserver.protocols.messages import Messages
from bridgeserver.protocols.responses import Responses
from bridgeserver.providers.provider import ANY, MAKE, READ, ProviderType

TYPE = ProviderType(
    name="copilot",
    prefix="",
    bridged={
        "/chat/completions": Chat(),
        "/responses": Responses(),
        "/responses/compact": Responses(),
        "/v1/messages": Messages(),
    },
    passthrough={"/_ping": READ, "/auto": ANY, "/models": READ, "/v1/messages/count_tokens": MAKE},
    subtrees={"/models/": ANY, "/agents/": ANY, "/mcp/": ANY, "/.well-known/": READ},
    error_protocol=Responses(),
)
