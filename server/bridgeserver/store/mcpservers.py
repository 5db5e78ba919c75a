"""MCP servers of the store. Every change is numbered and audited where it is made.

A list shows what was masked when it was stored, so it needs no vault. Rows of deleted servers stay, their secrets do
not.

A user's token is stored for a server's name, and was given to be shown at one place. So a name that comes to mean
another place loses its tokens in the transaction in which it does.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET
from sqlalchemy import Connection, Row

from bridgecore import uuid7
from bridgeserver.config import McpServerConfig
from bridgeserver.config.mcp import literal
from bridgeserver.config.sources import Values
from bridgeserver.errors import InvalidMembers, SealError
from bridgeserver.records import now_us
from bridgeserver.sealing import Vault
from bridgeserver.secret import Secret
from bridgeserver.store import auditing, revisions, usertokens
from bridgeserver.store.instants import iso
from bridgeserver.store.kind import Kind
from bridgeserver.store.schema import mcp_server_overrides, mcp_servers
from bridgeserver.store.sealedtable import SealedTable, open_table, seal_table
from bridgeserver.store.stored import LoadedServers, ServerChanges, ServerError, ServerFields, StoredServer

ServerRow = Row[Any]
T = TypeVar("T")

KIND = Kind(mcp_servers, mcp_server_overrides, "MCP server", "mcp_server")

PLAIN = ("user_token", "allow", "deny", "enabled", "allow_link_local")
"""Members that are stored as they are given."""

PORTS = {"http": 80, "https": 443}


def find_all(connection: Connection) -> list[StoredServer]:
    """Return all servers by name, disabled ones too."""
    return [_shown(row) for row in KIND.rows(connection)]


def find(connection: Connection, id_or_name: str) -> StoredServer:
    """Return one server; raises NotFound."""
    return _shown(KIND.row(connection, id_or_name))


def create(
    connection: Connection, vault: Vault, fields: ServerFields, actor: str, replaced_url: str | None
) -> StoredServer:
    """Store a server; raises InvalidMembers with all mistakes, or Conflict if there is one of its name.

    *replaced_url* is that of the file's server of the same name: users' tokens stay if they go to the same place.
    """
    revisions.hold(connection, revisions.CONFIG)
    values = _checked(fields.name, _given(fields))
    name = values["name"]
    KIND.check_free(connection, name)
    server_id = uuid7()
    secrets = _sealed_url(vault, server_id, values["url"]) | _sealed_headers(vault, server_id, values["headers"])
    KIND.add(connection, server_id, name=name, **{member: values[member] for member in PLAIN}, **secrets)
    stays = replaced_url is not None and is_same_place(replaced_url, values["url"])
    dropped = 0 if stays else usertokens.drop(connection, name)
    detail = {"name": name, "url": secrets["url"], "enabled": values["enabled"], "dropped_tokens": dropped}
    auditing.write(connection, actor, "mcp_server.create", server_id, **detail)
    return find(connection, server_id)


def change(connection: Connection, vault: Vault, id_or_name: str, changes: ServerChanges, actor: str) -> StoredServer:
    """Change a server; raises NotFound, or InvalidMembers with all mistakes."""
    revisions.hold(connection, revisions.CONFIG)
    row = KIND.row(connection, id_or_name)
    given = _given(changes)
    values = _checked(row.name, _current(row) | given)
    new: Values = {name: values[name] for name in PLAIN if name in given}
    if "url" in given and values["url"] != _may_open(_url, vault, row):
        new |= _sealed_url(vault, row.id, values["url"])
    if "headers" in given and values["headers"] != _may_open(_headers, vault, row):
        new |= _sealed_headers(vault, row.id, values["headers"])
    different = {name: value for name, value in new.items() if value != getattr(row, name)}
    if not different:
        return _shown(row)
    KIND.write(connection, row.id, **different)
    dropped = 0 if is_same_place(row.url, values["url"]) else usertokens.drop(connection, row.name)
    changed = sorted({"url" if name == "query" else name for name in different})
    detail = {"name": row.name, "changed": changed, "dropped_tokens": dropped}
    auditing.write(connection, actor, "mcp_server.update", row.id, **detail)
    return find(connection, row.id)


def remove(connection: Connection, id_or_name: str, actor: str) -> None:
    """Delete a server with its secrets and its users' tokens; its name is free again. Raises NotFound."""
    revisions.hold(connection, revisions.CONFIG)
    row = KIND.row(connection, id_or_name)
    KIND.write(connection, row.id, deleted_at=now_us(), query="{}", headers="{}")
    dropped = usertokens.drop(connection, row.name)
    auditing.write(connection, actor, "mcp_server.delete", row.id, name=row.name, dropped_tokens=dropped)


def load(connection: Connection, vault: Vault) -> LoadedServers:
    """Return the servers with their secrets; one that cannot be read is an error of its own."""
    loaded: list[McpServerConfig] = []
    errors: list[ServerError] = []
    for row in KIND.rows(connection):
        try:
            loaded.append(_opened(vault, row))
        except InvalidMembers as exc:
            errors.append(ServerError(name=row.name, user_token=row.user_token, reason="; ".join(exc.mistakes)))
        except SealError as exc:
            errors.append(ServerError(name=row.name, user_token=row.user_token, reason=str(exc)))
    return LoadedServers(servers=tuple(loaded), errors=tuple(errors), overrides=KIND.overrides(connection))


def has_secrets(connection: Connection) -> bool:
    """Whether anything of a server is sealed."""
    return any(_table(text).sealed for row in KIND.rows(connection) for text in (row.query, row.headers))


def is_same_place(url: str, other: str) -> bool:
    """Whether what is shown at one URL may be shown at the other: scheme, host and port are the same."""
    return _origin(url) == _origin(other)


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or PORTS.get(parts.scheme)
    except ValueError:  # a row that somebody has broken can be set again
        return None


def _given(struct: ServerFields | ServerChanges) -> Values:
    given = {name: value for name, value in msgspec.structs.asdict(struct).items() if value is not UNSET}
    headers: Mapping[str, Secret] | None = given.get("headers")
    return given if headers is None else given | {"headers": {name: text.reveal() for name, text in headers.items()}}


def _checked(name: str, members: Mapping[str, object], source: Literal["request", "store"] = "request") -> Values:
    """Return the members of a server as its configuration has them; raises InvalidMembers."""
    values, mistakes = literal(source, name, members)
    if mistakes:
        raise InvalidMembers(mistakes)
    return values


def _current(row: ServerRow) -> Values:
    """Return what a change begins with. A header's hint stands for its value, which need not be opened."""
    return _plain(row) | {"headers": _masked(row.headers)}


def _plain(row: ServerRow) -> Values:
    return {name: getattr(row, name) for name in ("name", "url", *PLAIN)}


def _opened(vault: Vault, row: ServerRow) -> McpServerConfig:
    members = _plain(row)
    if row.enabled:
        headers = {name: text.reveal() for name, text in _headers(vault, row).items()}
        members |= {"url": _url(vault, row), "headers": headers}
    return McpServerConfig(**_checked(row.name, members, "store"))


def _url(vault: Vault, row: ServerRow) -> str:
    query = open_table(vault, row.id, "query", _table(row.query))
    return f"{row.url}?{query['query']}" if query else str(row.url)


def _headers(vault: Vault, row: ServerRow) -> dict[str, Secret]:
    table = open_table(vault, row.id, "headers", _table(row.headers))
    return {name: Secret(text) for name, text in table.items()}


def _may_open(read: Callable[[Vault, ServerRow], T], vault: Vault, row: ServerRow) -> T | None:
    # What cannot be opened any more must not keep anybody from setting it again.
    try:
        return read(vault, row)
    except (InvalidMembers, SealError):
        return None


def _sealed_url(vault: Vault, server_id: str, url: str) -> Values:
    place, _, query = url.partition("?")
    return {"url": place, "query": _text(seal_table(vault, server_id, "query", {"query": query} if query else {}))}


def _sealed_headers(vault: Vault, server_id: str, headers: Mapping[str, Secret]) -> Values:
    table = {name: text.reveal() for name, text in headers.items()}
    return {"headers": _text(seal_table(vault, server_id, "headers", table))}


def _text(table: SealedTable) -> str:
    return msgspec.json.encode(table).decode()


def _table(text: str) -> SealedTable:
    """Return what a column holds; raises InvalidMembers, which shows nothing of it."""
    try:
        return msgspec.json.decode(text, type=SealedTable)
    except msgspec.MsgspecError as exc:
        raise InvalidMembers(["headers or query: found a text that cannot be read: set both again"]) from exc


def _masked(text: str) -> dict[str, str]:
    try:
        return _table(text).masked
    except InvalidMembers:
        return {}


def _shown(row: ServerRow) -> StoredServer:
    return StoredServer(
        id=row.id,
        **_plain(row),
        query=_masked(row.query).get("query", ""),
        headers=_masked(row.headers),
        created_at=iso(row.created_at),
        updated_at=iso(row.updated_at),
    )
