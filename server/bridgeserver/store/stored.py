"""What is stored of providers, MCP servers and users' tokens: as it is shown, made, changed and loaded. No SQL here."""

from typing import Any, NamedTuple

from msgspec import UNSET, Struct, UnsetType

from bridgeserver.config import McpServerConfig, ProviderConfig
from bridgeserver.secret import Secret


class StoredKey(Struct, frozen=True, kw_only=True):
    """A provider key as it may be shown."""

    id: str
    masked: str
    created_at: str


class StoredProvider(Struct, frozen=True, kw_only=True):
    """A provider as it may be shown: values of headers and parameters are masked, times are ISO 8601 in UTC.

    `settings` is empty if they cannot be read; `load` says why.
    """

    id: str
    type: str
    name: str
    display_name: str
    icon: str
    enabled: bool
    base_url: str
    api_keys: list[StoredKey]
    settings: dict[str, Any]
    created_at: str
    updated_at: str


class GivenSettings(Struct, frozen=True, kw_only=True):
    """What somebody says of a provider beside its name, its place and its keys.

    What is not given has its default, or stays. Tables are given whole.
    """

    auth: str | UnsetType = UNSET
    extra_headers: dict[str, str] | UnsetType = UNSET
    query: dict[str, str] | UnsetType = UNSET
    shared_state: bool | UnsetType = UNSET
    allow_link_local: bool | UnsetType = UNSET
    actor_headers: bool | UnsetType = UNSET
    dumps: bool | UnsetType = UNSET
    breaker_failures: int | UnsetType = UNSET
    breaker_interval_s: float | UnsetType = UNSET
    breaker_timeout_s: float | UnsetType = UNSET
    breaker_probes: int | UnsetType = UNSET
    region: str | UnsetType = UNSET
    bedrock_api: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    small_fast_model: str | UnsetType = UNSET
    aws_profile: str | UnsetType = UNSET
    aws_role: str | UnsetType = UNSET
    aws_external_id: str | UnsetType = UNSET


class ProviderFields(GivenSettings, frozen=True, kw_only=True):
    """A provider to be made; base URL and auth follow from the type if they are not given. Keys are literals."""

    type: str
    name: str
    base_url: str | UnsetType = UNSET
    keys: tuple[Secret, ...] = ()
    enabled: bool = True
    display_name: str = ""
    icon: str = ""


class KeyChange(Struct, frozen=True, kw_only=True):
    """One key as it is to be: exactly one of the id of a key that is there, and a new key."""

    id: str | UnsetType = UNSET
    api_key: Secret | UnsetType = UNSET


class ProviderChanges(GivenSettings, frozen=True, kw_only=True):
    """What is to be different; what is not given stays. Lists and tables are given whole."""

    base_url: str | UnsetType = UNSET
    api_keys: tuple[KeyChange, ...] | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    display_name: str | UnsetType = UNSET
    icon: str | UnsetType = UNSET


class StoredServer(Struct, frozen=True, kw_only=True):
    """An MCP server as it may be shown: times are ISO 8601 in UTC.

    `query` is a hint of what comes after `?` in its URL. It and `headers` are empty if they cannot be read; `load` says
    why.
    """

    id: str
    name: str
    url: str
    query: str
    headers: dict[str, str]
    user_token: bool
    allow: str
    deny: str
    enabled: bool
    allow_link_local: bool
    created_at: str
    updated_at: str


class ServerFields(Struct, frozen=True, kw_only=True):
    """An MCP server to be made. Values of headers are literals."""

    name: str
    url: str
    headers: dict[str, Secret] = {}
    user_token: bool = False
    allow: str = ""
    deny: str = ""
    enabled: bool = True
    allow_link_local: bool = False


class ServerChanges(Struct, frozen=True, kw_only=True):
    """What is to be different; what is not given stays. The URL is given with its query, and headers whole."""

    url: str | UnsetType = UNSET
    headers: dict[str, Secret] | UnsetType = UNSET
    user_token: bool | UnsetType = UNSET
    allow: str | UnsetType = UNSET
    deny: str | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    allow_link_local: bool | UnsetType = UNSET


class UserToken(Struct, frozen=True, kw_only=True):
    """A user's own token for an MCP server as it may be shown, which is without itself; times are ISO 8601 in UTC."""

    user: str
    server: str
    created_at: str
    updated_at: str


class ProviderError(Struct, frozen=True, kw_only=True):
    """A stored provider that cannot be used, and why; the reason shows no secret."""

    name: str
    type: str
    reason: str


class LoadedProviders(Struct, frozen=True, kw_only=True):
    """All that the store says of providers, as of one revision; `overrides` holds `enabled` by name.

    Secrets of disabled providers are not opened: these have neither keys nor headers nor parameters.
    """

    revision: int
    providers: tuple[ProviderConfig, ...] = ()
    errors: tuple[ProviderError, ...] = ()
    overrides: dict[str, bool] = {}


class ServerError(Struct, frozen=True, kw_only=True):
    """A stored MCP server that cannot be used, and why; the reason shows no secret."""

    name: str
    user_token: bool
    reason: str


class LoadedServers(Struct, frozen=True, kw_only=True):
    """All that the store says of MCP servers; `overrides` holds `enabled` by name.

    Secrets of disabled servers are not opened: these have neither headers nor the query of their URL.
    """

    servers: tuple[McpServerConfig, ...] = ()
    errors: tuple[ServerError, ...] = ()
    overrides: dict[str, bool] = {}


class Loaded(NamedTuple):
    """All that the store says of what is to be served, as of one revision."""

    providers: LoadedProviders
    servers: LoadedServers


def token_place(user_id: str, server: str) -> str:
    """Return what a user's token is sealed to: its row has no id but these two, and no id of another row is like it."""
    return f"mcp_tokens/{user_id}/{server}"
