"""Old records out of the tables, some at a time: interceptions by their beginning, and with each what belongs to it.

Which responses a provider keeps, and whose they are, stays: without that their users could not go on from them.
"""

from collections import defaultdict
from collections.abc import Collection

from sqlalchemy import BindParameter, Connection, Table, bindparam, delete, exists, func, select, update

from bridgeserver.store.lineage import SessionKey
from bridgeserver.store.schema import (
    interceptions,
    model_thoughts,
    sessions,
    token_usages,
    tool_usages,
    user_prompts,
)
from bridgeserver.store.sessions import leave

CHILDREN = (model_thoughts, tool_usages, token_usages, user_prompts)

_IDS: BindParameter[str] = bindparam("ids", expanding=True)

_OLDEST = (
    select(interceptions.c.id, interceptions.c.user_id, interceptions.c.session_key)
    .where(interceptions.c.started_at < bindparam("before"))
    .order_by(interceptions.c.started_at, interceptions.c.id)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)  # another gateway purges others
)

_FIRST_LEFT = (
    select(func.min(interceptions.c.started_at))
    .where(interceptions.c.user_id == sessions.c.user_id, interceptions.c.session_key == sessions.c.id)
    .scalar_subquery()
)
_LEFT = select(sessions.c.id, sessions.c.prompted_at, _FIRST_LEFT.label("first")).where(
    sessions.c.user_id == bindparam("user"), sessions.c.id.in_(_IDS)
)
# In the order in which shipping writes them, whatever the collation of the database.
_LOCK = (
    select(sessions.c.id)
    .where(sessions.c.user_id == bindparam("user"), sessions.c.id.in_(_IDS))
    .order_by(sessions.c.id.collate("C"))
    .with_for_update()
)
_BEGIN_LATER = (
    update(sessions)
    .where(sessions.c.user_id == bindparam("of_user"), sessions.c.id == bindparam("of_id"))
    .values(
        started_at=bindparam("first", type_=sessions.c.started_at.type),
        active_at=func.coalesce(sessions.c.prompted_at, bindparam("first", type_=sessions.c.started_at.type)),
    )
)


def count(connection: Connection, before: int) -> int:
    """Return how many interceptions began before that time."""
    query = select(func.count()).select_from(interceptions).where(interceptions.c.started_at < before)
    return connection.execute(query).scalar_one()


def purge(connection: Connection, before: int, limit: int) -> int:
    """Delete up to *limit* interceptions and what belongs to them, also those that are open; return how many."""
    rows = connection.execute(_OLDEST, {"before": before, "limit": limit}).all()
    if not rows:
        return 0
    ids = [row.id for row in rows]
    for table in CHILDREN:
        connection.execute(delete(table).where(table.c.interception_id.in_(_IDS)), {"ids": ids})
    connection.execute(delete(interceptions).where(interceptions.c.id.in_(_IDS)), {"ids": ids})
    _shorten(connection, {(row.user_id, row.session_key) for row in rows}, before)
    return len(ids)


def _shorten(connection: Connection, keys: Collection[SessionKey], before: int) -> None:
    """Have sessions begin with what is left of them.

    The last prompt of one is read anew only when it was purged itself: a prompt is as old as its interception, so that
    is when it is too old and nothing else of the session is. Else a long session would be read whole each time.
    """
    by_user: dict[str, list[str]] = defaultdict(list)
    for user, key in sorted(keys):
        by_user[user].append(key)
    anew: list[SessionKey] = []
    later: list[dict[str, object]] = []
    for user, ids in by_user.items():
        if connection.dialect.name == "postgresql":
            # Another gateway may be purging, or adding to, the same session: what it commits is seen from here on.
            connection.execute(_LOCK, {"user": user, "ids": ids})
        for row in connection.execute(_LEFT, {"user": user, "ids": ids}):
            is_purged = row.prompted_at is not None and row.prompted_at < before
            if row.first is None or (is_purged and row.first >= before):
                anew.append((user, row.id))
            else:
                later.append({"of_user": user, "of_id": row.id, "first": row.first})
    leave(connection, anew)
    if later:
        connection.execute(_BEGIN_LATER, later)


def purge_orphans(connection: Connection, before: int, limit: int) -> int:
    """Delete up to *limit* older records of each kind that have no interception; return how many those were.

    Ids sort by their time. So once older interceptions are gone, what is left of their records stands first in its
    table, and nobody has to read further.
    """
    return sum(_purge_orphans_of(connection, table, before, limit) for table in CHILDREN)


def _purge_orphans_of(connection: Connection, table: Table, before: int, limit: int) -> int:
    first = select(table.c.interception_id, table.c.created_at).order_by(*table.primary_key).limit(limit).subquery()
    has_owner = exists().where(interceptions.c.id == first.c.interception_id)
    query = select(first.c.interception_id).where(first.c.created_at < before, ~has_owner).distinct()
    ids = list(connection.execute(query).scalars())
    old = delete(table).where(table.c.interception_id.in_(_IDS), table.c.created_at < before)
    return connection.execute(old, {"ids": ids}).rowcount if ids else 0
