"""OpenAI: the version is part of the base URL, and of the prefix under which clients reach it."""

from bridgeserver.protocols.chat import Chat
from bridgeserver.protocols.responses import Responses
from bridgeserver.providers.provider import MAKE, MANAGE, READ, ProviderType

TYPE = ProviderType(
    name="openai",
    prefix="/v1",
    bridged={"/chat/completions": Chat(), "/responses": Responses(), "/responses/compact": Responses()},
    passthrough={"/conversations": MAKE, "/models": READ},
    subtrees={"/conversations/": MANAGE, "/models/": READ, "/responses/": MANAGE},
    owned=("/conversations/", "/responses/"),
    creates=frozenset({"/conversations"}),
    error_protocol=Responses(),
)
