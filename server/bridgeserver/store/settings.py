"""The settings of a stored provider: a JSON text whose switches can be read, and whose tables are sealed.

Headers and parameters may be secrets of a proxy in between. Each table is sealed whole, beside what may be shown of
it, and opens in its own row and place only.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from bridgeserver.errors import InvalidMembers, SealError
from bridgeserver.sealing import Vault
from bridgeserver.secret import hint

TABLES = ("extra_headers", "query")
SWITCHES = ("auth", "shared_state", "allow_link_local")


class SealedTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of texts; an empty one is sealed as nothing."""

    masked: dict[str, str] = {}
    sealed: str = ""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the column holds."""

    auth: str
    shared_state: bool
    allow_link_local: bool
    extra_headers: SealedTable = SealedTable()
    query: SealedTable = SealedTable()


def read(text: str) -> Settings:
    """Return the settings in a column; raises InvalidMembers, which shows nothing of them."""
    try:
        return msgspec.json.decode(text, type=Settings)
    except (msgspec.MsgspecError, TypeError) as exc:
        mistake = "settings: found a text that cannot be read, expected an object: remove the provider and add it again"
        raise InvalidMembers([mistake]) from exc


def write(settings: Settings) -> str:
    """Return settings as the text for their column."""
    return msgspec.json.encode(settings).decode()


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
    tables = {"extra_headers": settings.extra_headers.masked, "query": settings.query.masked}
    return {name: getattr(settings, name) for name in SWITCHES} | tables
