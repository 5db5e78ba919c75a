"""The settings of a stored provider: a JSON text whose plain members can be read, and whose tables are sealed.

Headers and parameters may be secrets of a proxy in between. Each table is sealed whole, beside what may be shown of
it, and opens in its own row and place only.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from bridgeserver.errors import InvalidMembers, SealError
from bridgeserver.sealing import Vault
from bridgeserver.secret import hint
from bridgeserver.store.stored import GivenSettings

TABLES = ("extra_headers", "query")
PLAIN = tuple(name for name in GivenSettings.__struct_fields__ if name not in TABLES)


class SealedTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of texts; an empty one is sealed as nothing."""

    masked: dict[str, str] = {}
    sealed: str = ""


class Settings(NamedTuple):
    """What the column holds: the plain members that were known when it was written, and every table."""

    plain: dict[str, Any]
    tables: dict[str, SealedTable]


def read(text: str) -> Settings:
    """Return the settings in a column; raises InvalidMembers, which shows nothing of them."""
    try:
        members = msgspec.json.decode(text, type=dict[str, Any])
        tables = {name: msgspec.convert(members.pop(name, {}), SealedTable) for name in TABLES}
        if members.keys() <= set(PLAIN):
            return Settings(members, tables)
    except (msgspec.MsgspecError, TypeError) as exc:
        raise _unreadable() from exc
    raise _unreadable()


def write(settings: Settings) -> str:
    """Return settings as the text for their column."""
    return msgspec.json.encode(settings.plain | settings.tables).decode()


def _unreadable() -> InvalidMembers:
    mistake = "settings: found a text that cannot be read, expected an object: remove the provider and add it again"
    return InvalidMembers([mistake])


def has_secrets(text: str) -> bool:
    """Whether anything in a column is sealed; nothing is in one that cannot be read."""
    try:
        return any(table.sealed for table in read(text).tables.values())
    except InvalidMembers:
        return False


def seal(vault: Vault, provider_id: str, name: str, table: Mapping[str, str]) -> SealedTable:
    """Return the table *name* of a provider as it may be stored."""
    if not table:
        return SealedTable()
    masked = {key: hint(value) for key, value in table.items()}
    text = msgspec.json.encode(dict(table)).decode()
    return SealedTable(masked=masked, sealed=vault.seal(text, f"{provider_id}/{name}"))


def open_table(vault: Vault, provider_id: str, name: str, table: SealedTable) -> dict[str, str]:
    """Return the table *name* of a provider itself; raises SealError."""
    if not table.sealed:
        return {}
    try:
        return msgspec.json.decode(vault.open(table.sealed, f"{provider_id}/{name}"), type=dict[str, str])
    except msgspec.MsgspecError as exc:
        raise SealError(f"{name}: found something else than a table: set it again") from exc


def shown(text: str) -> dict[str, Any]:
    """Return what may be shown of a column; nothing if it cannot be read."""
    try:
        settings = read(text)
    except InvalidMembers:
        return {}
    return settings.plain | {name: table.masked for name, table in settings.tables.items()}
