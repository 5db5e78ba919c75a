"""OpenAI: the version is part of the base URL, and of the prefix under which clients reach it."""

from bridgeserver.protocols.chat import Chat
from bridgeserver.protocols.responses import Responses
from bridgeserver.providers.provider import ProviderType

TYPE = ProviderType(
    name="openai",
    prefix="/v1",
    bridged={"/chat/completions": Chat(), "/responses": Responses()},
    passthrough=frozenset({"/conversations", "/models"}),
    subtrees=("/conversations/", "/models/", "/responses/"),
    owned=("/conversations/", "/responses/"),
    creates=frozenset({"/conversations"}),
    error_protocol=Responses(),
)
