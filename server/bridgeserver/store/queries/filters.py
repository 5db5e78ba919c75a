"""Which rows are meant.

An engine's planner does not know which filter few rows match, and without statistics it may well choose the wrong
index: sorting a million rows of a common model, or walking through all rows for one that nobody uses. So a filter is
tried first, up to a limit: one that few rows match leads, one that many match is checked on the way.
"""

from typing import Any

from msgspec import Struct
from sqlalchemy import CTE, ColumnElement, Connection, func, or_, select

from bridgeserver.store.schema import interceptions, users

RARE_ROWS = 20_000
"""Rows that are found and sorted within 50 ms. More of them are spread so densely that a page is soon found on the way:
among two million rows within 100 ms."""


class Filters(Struct, frozen=True, kw_only=True):
    """What a row must be like; None admits all. Times are microseconds since the epoch, the later one exclusive."""

    owner: str | None = None
    """The id of the only user whose rows may be seen at all."""
    user: str | None = None
    """A name, or an id."""
    provider: str | None = None
    provider_type: str | None = None
    model: str | None = None
    client: str | None = None
    session_id: str | None = None
    status: str | None = None
    started_after: int | None = None
    started_before: int | None = None


ALL = Filters()


class Chosen(Struct, frozen=True):
    """Filters as conditions on interceptions; `users` are those that everything must belong to."""

    users: tuple[str, ...]
    conditions: tuple[ColumnElement[bool], ...]
    leads: bool
    """Whether an index finds few rows by them."""


def user_id_of(connection: Connection, name: str) -> str:
    """Return the id of the user with that name; a text that is nobody's name is taken as an id."""
    found: str | None = connection.execute(select(users.c.id).where(users.c.name == name)).scalar()
    return name if found is None else found


def owners(connection: Connection, filters: Filters) -> tuple[str, ...]:
    """Return the ids that a row's user must be equal to: none, one, or two that differ and leave nothing."""
    named = () if filters.user is None else (user_id_of(connection, filters.user),)
    scope = () if filters.owner is None else (filters.owner,)
    return tuple(dict.fromkeys(scope + named))


def choose(connection: Connection, filters: Filters) -> Chosen:
    """Return the conditions for everything but the times."""
    columns = interceptions.c
    whose = owners(connection, filters)
    found = [columns.user_id == user for user in whose]
    leads = False
    if named := [
        (column, value)
        for column, value in ((columns.model, filters.model), (columns.client, filters.client))
        if value is not None
    ]:
        exact = [column == value for column, value in named]
        if whose and filters.client is None:
            exact.append(is_of_any_client(connection))
        leads = _is_rare(connection, *found, *exact)
        found += exact if leads else [_unindexed(connection, column) == value for column, value in named]
    for column, value in ((columns.provider_name, filters.provider), (columns.provider, filters.provider_type)):
        if value is not None:
            found.append(column == value)
    if filters.status is not None:
        found.append(columns.status == filters.status)
        if filters.status == "open":
            found.append(columns.ended_at.is_(None))  # which is what the index of open ones holds
    if filters.session_id is not None:
        found.append(_is_in_session(filters.session_id))
        leads = True
    return Chosen(whose, tuple(found), leads)


def times(column: ColumnElement[int], filters: Filters) -> list[ColumnElement[bool]]:
    """Return the conditions for a time of beginning."""
    found: list[ColumnElement[bool]] = []
    if filters.started_after is not None:
        found.append(column >= filters.started_after)
    if filters.started_before is not None:
        found.append(column < filters.started_before)
    return found


def steps(column: ColumnElement[str]) -> CTE:
    """Return the different values of a column, and a NULL, as a table with one column, `value`.

    `SELECT DISTINCT` would read the whole index, two million entries for twenty models. Here each step asks the index
    for the next value after the one before.
    """
    found = select(func.min(column).label("value")).cte("steps", recursive=True)
    following = select(func.min(column)).where(column > found.c.value).scalar_subquery()
    return found.union_all(select(following).where(found.c.value.is_not(None)))


def is_of_any_client(connection: Connection) -> ColumnElement[bool]:
    """Return what is true of every row; with it the index that begins with model and client finds a user's."""
    client = interceptions.c.client
    every = connection.execute(select(steps(client).c.value)).scalars()
    return client.in_([value for value in every if value is not None])


def _unindexed(connection: Connection, column: ColumnElement[str]) -> ColumnElement[str]:
    """Return the same in words for which SQLite has no index; PostgreSQL has statistics, which need the column."""
    return column.concat("") if connection.dialect.name == "sqlite" else column


def _is_rare(connection: Connection, *conditions: ColumnElement[Any]) -> bool:
    rows = select(interceptions.c.user_id).where(*conditions).limit(RARE_ROWS + 1).subquery()
    return connection.execute(select(func.count()).select_from(rows)).scalar_one() <= RARE_ROWS


def _is_in_session(session_id: str) -> ColumnElement[bool]:
    """Say the same as an equal key does, in words for which there are indexes."""
    columns = interceptions.c
    among = or_(columns.session_id == session_id, columns.thread_root_id == session_id, columns.id == session_id)
    return among & (columns.session_key == session_id)
