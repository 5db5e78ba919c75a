"""The MCP servers as an administrator sees and changes them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from bridgeserver.bodies import convert, read
from bridgeserver.catalog import Catalog, Shape, State, View
from bridgeserver.sealing import Vault
from bridgeserver.status import McpServerStatus, ReloadStatus
from bridgeserver.store.stored import ServerChanges, ServerFields, StoredServer


class ServerPatch(ServerChanges, frozen=True, kw_only=True):
    """The body of a request for a change: what is omitted stays, and `headers` are all that there will be."""

    name: str | UnsetType = UNSET


class ServerView(Shape, frozen=True, kw_only=True):
    """An MCP server as the answers show it; one of the file has no query, headers and times here."""

    url: str | None
    query: str | None = None
    """A hint of what comes after `?` in its URL."""
    headers: dict[str, str] | None = None
    user_token: bool | None
    allow: str | None
    deny: str | None
    allow_link_local: bool | None = None
    created_at: str | None = None
    updated_at: str | None = None


class ServerStore(Protocol):
    """What is needed of the store; every method raises StoreError if the database fails."""

    def list_mcp_servers(self) -> Sequence[StoredServer]: ...
    def create_mcp_server(
        self, vault: Vault, fields: ServerFields, actor: str, replaced_url: str | None
    ) -> StoredServer: ...
    def update_mcp_server(self, vault: Vault, id_or_name: str, changes: ServerChanges, actor: str) -> StoredServer: ...
    def delete_mcp_server(self, id_or_name: str, actor: str) -> None: ...
    def enable_mcp_server(self, name: str, *, enabled: bool, actor: str, file_names: Collection[str]) -> None: ...
    def reset_mcp_server(self, name: str, actor: str) -> None: ...
    def mcp_server_overrides(self) -> Mapping[str, bool]: ...


class ServerCatalog(Catalog[StoredServer, McpServerStatus, ServerView]):
    """The MCP servers of both sources."""

    noun = "MCP server"
    fixed = ("name",)
    patch = ServerPatch
    shape = ServerView

    def __init__(self, store: ServerStore, vault: Vault, state: State) -> None:
        super().__init__(state)
        self._store = store
        self._vault = vault

    def create(self, body: bytes, actor: str) -> str:
        """Store a server and return its name."""
        fields = convert(read(body), ServerFields)
        replaced_url = self._state.file_servers.get(fields.name)
        return self._store.create_mcp_server(self._vault, fields, actor, replaced_url).name

    def _stored(self) -> Sequence[StoredServer]:
        return self._store.list_mcp_servers()

    def _file_names(self) -> Collection[str]:
        return self._state.file_servers

    def _in_force(self, status: ReloadStatus) -> Sequence[McpServerStatus]:
        return status.mcp_servers

    def _stored_view(self, stored: StoredServer) -> View:
        return msgspec.structs.asdict(stored)

    def _file_view(self, name: str, found: McpServerStatus | None) -> View:
        return {
            "id": None,
            "name": name,
            "url": found.url if found else self._state.file_servers.get(name),
            "user_token": found.user_token if found else None,
            "allow": found.allow if found else None,
            "deny": found.deny if found else None,
        }

    def _change(self, name: str, given: dict[str, Any], actor: str) -> None:
        self._store.update_mcp_server(self._vault, name, ServerChanges(**given), actor)

    def _switch(self, name: str, *, enabled: bool, actor: str) -> None:
        self._store.enable_mcp_server(name, enabled=enabled, actor=actor, file_names=self._state.file_servers)

    def _delete(self, name: str, actor: str) -> None:
        self._store.delete_mcp_server(name, actor)

    def _overrides(self) -> Mapping[str, bool]:
        return self._store.mcp_server_overrides()

    def _end_override(self, name: str, actor: str) -> None:
        self._store.reset_mcp_server(name, actor)
