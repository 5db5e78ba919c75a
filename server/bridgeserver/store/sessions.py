"""Sessions: a row for all interceptions of a user that have one `session_key`, kept with them in one transaction.

What is added only moves times outward, so it is merged into the row that is there. What leaves, because it has become
part of another thread or was purged, has its old session made anew from what is left.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Connection, Select, bindparam, case, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert

from bridgeserver.records import Interception, UserPrompt
from bridgeserver.store.lineage import CHUNK, Moved, SessionKey, chunks
from bridgeserver.store.schema import interceptions, sessions, user_prompts

Row = tuple[Any, ...]

COLUMNS = tuple(sessions.columns.keys())


def merging(insert: sqlite.Insert | postgresql.Insert) -> Insert:
    """Return an insertion of sessions that widens those which are there already."""
    old, new = sessions.c, insert.excluded
    started_at = case((new.started_at < old.started_at, new.started_at), else_=old.started_at)
    is_later = old.prompted_at.is_(None) | (new.prompted_at > old.prompted_at)
    prompted_at = case((is_later, new.prompted_at), else_=old.prompted_at)
    return insert.on_conflict_do_update(
        index_elements=[old.user_id, old.id],
        set_={
            "started_at": started_at,
            "prompted_at": prompted_at,
            "active_at": func.coalesce(prompted_at, started_at),
        },
    )


def rows(begun: Iterable[Interception], prompts: Mapping[str, int]) -> list[Row]:
    """Return the sessions of interceptions that are new and answer no stored call; *prompts* are times by their ids."""
    found: dict[SessionKey, tuple[int, int | None]] = {}
    for interception in begun:
        key = interception.user_id, interception.session_id or interception.id
        started_at, prompted_at = interception.started_at, prompts.get(interception.id)
        before = found.get(key)
        if before is not None:
            started_at = min(started_at, before[0])
            prompted_at = max((at for at in (prompted_at, before[1]) if at is not None), default=None)
        found[key] = started_at, prompted_at
    # In one order everywhere, so that two gateways on one database wait for each other and not in a circle.
    return [
        (user, key, started_at, prompted_at, started_at if prompted_at is None else prompted_at)
        for (user, key), (started_at, prompted_at) in sorted(found.items())
    ]


def prompted(prompts: Collection[UserPrompt]) -> dict[str, int]:
    """Return when the last prompt of each interception came."""
    found = {prompt.interception_id: prompt.created_at for prompt in prompts}
    if len(found) == len(prompts):
        return found
    for prompt in prompts:
        found[prompt.interception_id] = max(prompt.created_at, found[prompt.interception_id])
    return found


def fold(connection: Connection, ids: Collection[str]) -> None:
    """Merge stored interceptions into their sessions, as often as one likes."""
    for chunk in chunks(sorted(ids), CHUNK):
        connection.execute(_statement(connection, _BY_ID), {"chosen": chunk})


def leave(connection: Connection, keys: Iterable[SessionKey]) -> None:
    """Make sessions anew that interceptions have left; one without any is gone."""
    by_user: dict[str, list[str]] = defaultdict(list)
    for user, key in sorted(keys):
        by_user[user].append(key)
    for user, user_keys in by_user.items():
        for chunk in chunks(user_keys, CHUNK):
            values = {"user": user, "chosen": chunk}
            connection.execute(_GONE, values)
            connection.execute(_statement(connection, _BY_KEY), values)


def move(connection: Connection, moved: Moved) -> None:
    """Put interceptions whose key has changed into their new sessions, and out of the old ones."""
    fold(connection, moved.ids)
    leave(connection, moved.left)


_CHOSEN: BindParameter[Any] = bindparam("chosen", expanding=True)
_USER: BindParameter[str] = bindparam("user")

_GONE = delete(sessions).where(sessions.c.user_id == _USER, sessions.c.id.in_(_CHOSEN))


def _of(*chosen: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """Return the sessions that interceptions make."""
    key = interceptions.c.user_id, interceptions.c.session_key
    started_at = func.min(interceptions.c.started_at)
    prompted_at = func.max(user_prompts.c.created_at)
    return (
        select(*key, started_at, prompted_at, func.coalesce(prompted_at, started_at))
        .join_from(interceptions, user_prompts, user_prompts.c.interception_id == interceptions.c.id, isouter=True)
        .where(*chosen)
        .group_by(*key)
        .order_by(*key)
    )


_BY_ID = _of(interceptions.c.id.in_(_CHOSEN))
_BY_KEY = _of(interceptions.c.user_id == _USER, interceptions.c.session_key.in_(_CHOSEN))


def _statement(connection: Connection, query: Select[*tuple[Any, ...]]) -> Insert:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return merging(insert(sessions).from_select(COLUMNS, query))
