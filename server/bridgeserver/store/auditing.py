"""Who changed what, written in the transaction that changes it; no secret goes in."""

from typing import Any

import msgspec
from sqlalchemy import Connection, insert

from bridgecore import uuid7
from bridgeserver.records import now_us
from bridgeserver.store.schema import audit


def write(connection: Connection, actor: str, action: str, target: str, **detail: Any) -> None:
    """Add a row to the audit."""
    row = {"id": uuid7(), "at": now_us(), "actor": actor, "action": action, "target": target}
    connection.execute(insert(audit).values(**row, detail=msgspec.json.encode(detail).decode()))
