"""A table of texts that may be secrets: sealed whole, beside what may be shown of it.

It opens in its own row and place only.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from bridgeserver.errors import SealError
from bridgeserver.sealing import Vault
from bridgeserver.secret import hint


class SealedTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of texts; an empty one is sealed as nothing."""

    masked: dict[str, str] = {}
    sealed: str = ""


def seal_table(vault: Vault, row_id: str, name: str, table: Mapping[str, str]) -> SealedTable:
    """Return the table *name* of a row as it may be stored."""
    if not table:
        return SealedTable()
    masked = {key: hint(value) for key, value in table.items()}
    text = msgspec.json.encode(dict(table)).decode()
    return SealedTable(masked=masked, sealed=vault.seal(text, f"{row_id}/{name}"))


def open_table(vault: Vault, row_id: str, name: str, table: SealedTable) -> dict[str, str]:
    """Return the table *name* of a row itself; raises SealError."""
    if not table.sealed:
        return {}
    try:
        return msgspec.json.decode(vault.open(table.sealed, f"{row_id}/{name}"), type=dict[str, str])
    except msgspec.MsgspecError as exc:
        raise SealError(f"{name}: found something else than a table: set it again") from exc
