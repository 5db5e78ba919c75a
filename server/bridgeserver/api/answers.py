"""Bodies of requests and answers that are no records: those about providers, MCP servers and tokens, and refusals."""

from msgspec import Struct

from bridgeserver.provider_catalog import ProviderView
from bridgeserver.secret import Secret
from bridgeserver.server_catalog import ServerView


class Providers(Struct, frozen=True):
    """All providers by name."""

    providers: list[ProviderView]


class Servers(Struct, frozen=True):
    """All MCP servers by name."""

    mcp_servers: list[ServerView]


class NewToken(Struct, frozen=True):
    """The body of a request that sets a user's token."""

    token: Secret


class TokenView(Struct, frozen=True):
    """A user's own token for an MCP server, without itself; times are ISO 8601 in UTC."""

    server: str
    created_at: str
    updated_at: str


class UserTokens(Struct, frozen=True):
    """A user's own tokens for MCP servers."""

    tools: list[TokenView]


class Reason(Struct, frozen=True):
    """Why there is no other answer."""

    message: str
    type: str


class Refusal(Struct, frozen=True):
    """The shape of every failure."""

    error: Reason
