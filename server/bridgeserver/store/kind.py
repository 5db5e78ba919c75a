"""What is stored under names: the living rows of one kind, and the switches of the file's things of that kind.

Providers and MCP servers are such kinds. Every change counts up the revision of the configuration. Rows of what was
deleted stay, for the audit and for records that name them.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Table, delete, insert, or_, select, update

from bridgeserver.errors import Conflict, NotFound
from bridgeserver.records import now_us
from bridgeserver.store import auditing, revisions


class Kind(NamedTuple):
    """The tables of one kind, and what it is called."""

    table: Table
    switches: Table
    """`enabled` of the file's, where it was overridden."""
    noun: str
    action: str
    """What its actions in the audit begin with."""

    def rows(self, connection: Connection) -> Sequence[Row[Any]]:
        """Return all that are not deleted, by name."""
        columns = self.table.c
        return connection.execute(
            select(self.table).where(columns.deleted_at.is_(None)).order_by(columns.name)
        ).fetchall()

    def row(self, connection: Connection, id_or_name: str) -> Row[Any]:
        """Return one of these; raises NotFound."""
        # An id is a legal name as well; where both are there, the name is meant.
        is_meant = or_(self.table.c.id == id_or_name, self.table.c.name == id_or_name)
        rows = connection.execute(select(self.table).where(is_meant, self.table.c.deleted_at.is_(None))).fetchall()
        if not rows:
            there = _listed([row.name for row in self.rows(connection)])
            raise NotFound(f"no stored {self.noun} {id_or_name!r}; there are: {there}")
        return max(rows, key=lambda row: row.name == id_or_name)

    def named(self, connection: Connection, name: str) -> Row[Any] | None:
        """Return the one of that name."""
        is_it = (self.table.c.name == name) & self.table.c.deleted_at.is_(None)
        return connection.execute(select(self.table).where(is_it)).first()

    def check_free(self, connection: Connection, name: str) -> None:
        """Raise Conflict if the name is taken."""
        if self.named(connection, name) is not None:
            raise Conflict(f"a stored {self.noun} is named {name!r} already: change that one, or choose another name")

    def add(self, connection: Connection, row_id: str, **values: Any) -> None:
        """Make a row."""
        now = now_us()
        revisions.advance(connection, revisions.CONFIG)
        connection.execute(insert(self.table).values(id=row_id, created_at=now, updated_at=now, **values))

    def write(self, connection: Connection, row_id: str, **values: Any) -> None:
        """Change a row."""
        revisions.advance(connection, revisions.CONFIG)
        connection.execute(update(self.table).where(self.table.c.id == row_id).values(**values, updated_at=now_us()))

    def enable(
        self, connection: Connection, name: str, *, enabled: bool, actor: str, file_names: Collection[str]
    ) -> None:
        """Switch a stored one itself, one of the file by an override. Raises NotFound."""
        revisions.hold(connection, revisions.CONFIG)
        row = self.named(connection, name)
        if row is None:
            if name not in file_names:
                there = _listed({*file_names, *(row.name for row in self.rows(connection))})
                raise NotFound(f"no {self.noun} named {name!r}; there are: {there}")
            self.override(connection, name, enabled=enabled, actor=actor)
        elif row.enabled != enabled:
            self.write(connection, row.id, enabled=enabled)
            auditing.write(connection, actor, f"{self.action}.{'enable' if enabled else 'disable'}", row.id, name=name)

    def override(self, connection: Connection, name: str, *, enabled: bool, actor: str) -> None:
        """Switch the file's one of that name until `reset`."""
        revisions.hold(connection, revisions.CONFIG)
        if self.overrides(connection).get(name) is enabled:
            return
        revisions.advance(connection, revisions.CONFIG)
        connection.execute(delete(self.switches).where(self.switches.c.name == name))
        connection.execute(insert(self.switches).values(name=name, enabled=enabled, created_at=now_us()))
        auditing.write(connection, actor, f"{self.action}.override", name, enabled=enabled)

    def reset(self, connection: Connection, name: str, actor: str) -> None:
        """End an override; raises NotFound if there is none."""
        revisions.hold(connection, revisions.CONFIG)
        there = self.overrides(connection)
        if name not in there:
            raise NotFound(f"no override of {self.noun} {name!r} to end; there are: {_listed(there)}")
        revisions.advance(connection, revisions.CONFIG)
        connection.execute(delete(self.switches).where(self.switches.c.name == name))
        auditing.write(connection, actor, f"{self.action}.reset", name)

    def overrides(self, connection: Connection) -> dict[str, bool]:
        """Return `enabled` of the file's that were switched, by name."""
        rows = connection.execute(select(self.switches).order_by(self.switches.c.name))
        return {row.name: row.enabled for row in rows}


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
