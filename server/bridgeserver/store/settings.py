"""The settings of a stored provider: a JSON text whose plain members can be read, and whose tables are sealed.

Headers and parameters may be secrets of a proxy in between.
"""

from typing import Any, NamedTuple

import msgspec

from bridgeserver.errors import InvalidMembers
from bridgeserver.store.sealedtable import SealedTable
from bridgeserver.store.stored import GivenSettings

TABLES = ("extra_headers", "query")
PLAIN = tuple(name for name in GivenSettings.__struct_fields__ if name not in TABLES)


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


def shown(text: str) -> dict[str, Any]:
    """Return what may be shown of a column; nothing if it cannot be read."""
    try:
        settings = read(text)
    except InvalidMembers:
        return {}
    return settings.plain | {name: table.masked for name, table in settings.tables.items()}
