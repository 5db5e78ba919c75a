"""What was used, by user, model, provider, day and client, and what of it has no price."""

from collections.abc import Collection, Sequence
from datetime import date, timedelta
from typing import Any, Literal

from sqlalchemy import BigInteger, ColumnElement, Connection, Row, Select, case, func, select, tuple_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from bridgeserver.store.queries import sums
from bridgeserver.store.queries.filters import Filters, choose, times
from bridgeserver.store.queries.order import place
from bridgeserver.store.schema import interceptions, token_usages, users
from bridgeserver.store.views import TOKENS, Spent, UsageRow

Group = Literal["day", "user", "provider", "model", "client"]

DAY_US = 86_400_000_000
EPOCH_DAY = date(1970, 1, 1)

Place = tuple[int | str, ...]
"""A place in the order of the groups: their values."""


class Day(ColumnElement[int]):
    """The number of a time's day in UTC, counted from the epoch."""

    inherit_cache = True
    type = BigInteger()

    def __init__(self, column: ColumnElement[int]) -> None:
        self.column = column


@compiles(Day)
def _day_of_microseconds(day: Day, compiler: SQLCompiler, **options: Any) -> str:
    # SQLite divides towards zero; there are no records from before the epoch.
    return f"({compiler.process(day.column, **options)} / {DAY_US})"


@compiles(Day, "postgresql")
def _day_of_timestamp(day: Day, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST(floor(extract(epoch FROM {compiler.process(day.column, **options)}) / 86400) AS BIGINT)"


_COLUMNS: dict[Group, tuple[tuple[str, ColumnElement[Any]], ...]] = {
    "day": (("day", Day(interceptions.c.started_at)),),
    "user": (("user_id", interceptions.c.user_id),),
    "provider": (("provider_name", interceptions.c.provider_name), ("provider", interceptions.c.provider)),
    "model": (("model", interceptions.c.model),),
    "client": (("client", interceptions.c.client),),
}
"""The members that a group gives a row, in the order in which rows are sorted by them."""

GROUPS: tuple[Group, ...] = tuple(_COLUMNS)

Found = tuple[Place, UsageRow]


def rows(
    connection: Connection, groups: Sequence[Group], filters: Filters, *, after: Place | None = None, limit: int
) -> list[Found]:
    """Return up to *limit* groups in the order of their values, each with its place, that come after *after*."""
    keys = _keys(groups)
    query = _requests(connection, keys, filters)
    if keys:
        query = query.order_by(*keys.values()).limit(limit)
    if after is not None:
        query = query.where(tuple_(*keys.values()) > place(list(keys.values()), after))
    requests = {_place(row, keys): row.requests for row in connection.execute(query) if row.requests}
    if not requests:
        return []
    *_, last = requests
    used = _used(connection, keys, filters, after, last)
    names = _names(connection, {place[list(keys).index("user_id")] for place in requests} if "user_id" in keys else ())
    return [(place, _row(place, keys, count, used.get(place), names)) for place, count in requests.items()]


def first_start(connection: Connection, filters: Filters) -> int | None:
    """Return when the first request of a period began, of anybody, or of the owner."""
    theirs = () if filters.owner is None else (interceptions.c.user_id == filters.owner,)
    query = select(func.min(interceptions.c.started_at))
    found: int | None = connection.execute(query.where(*theirs, *times(interceptions.c.started_at, filters))).scalar()
    return found


def unpriced(connection: Connection, filters: Filters, limit: int) -> list[UsageRow]:
    """Return models that have no price, and what they used."""
    keys = _keys(("provider", "model"))
    query = _with_usages(_matching(connection, filters, keys)).where(token_usages.c.cost_micros.is_(None))
    query = query.add_columns(func.count(interceptions.c.id.distinct()).label("unpriced_requests"), *_SUMS)
    query = query.order_by(*keys.values()).limit(limit)
    return [_row(_place(row, keys), keys, row.unpriced_requests, row, {}) for row in connection.execute(query)]


def total(found: Sequence[UsageRow]) -> Spent:
    """Return the sums of rows; they are whole numbers, so there is nothing to round."""
    return Spent(**{name: sum(getattr(row, name) for row in found) for name in SPENT})


def day_of(text: str) -> int:
    """Return the number of a day by its date."""
    return (date.fromisoformat(text) - EPOCH_DAY).days


SPENT = ("requests", *TOKENS, "cost_micros", "unpriced_requests")

_SUMS = (*sums.token_parts(), *sums.parts(token_usages.c.cost_micros, "cost_micros"))

_UNPRICED_ID = case((token_usages.c.cost_micros.is_(None), interceptions.c.id))


def _keys(groups: Sequence[Group]) -> dict[str, ColumnElement[Any]]:
    return {name: column for group in GROUPS if group in groups for name, column in _COLUMNS[group]}


def _matching(connection: Connection, filters: Filters, keys: dict[str, ColumnElement[Any]]) -> Select[Any]:
    """Return a query for the groups of what matches; without any it is about all of it."""
    columns = [column.label(name) for name, column in keys.items()]
    conditions = *choose(connection, filters).conditions, *times(interceptions.c.started_at, filters)
    return select(*columns).select_from(interceptions).where(*conditions).group_by(*keys.values())


def _requests(connection: Connection, keys: dict[str, ColumnElement[Any]], filters: Filters) -> Select[Any]:
    return _matching(connection, filters, keys).add_columns(func.count().label("requests"))


def _with_usages(query: Select[Any]) -> Select[Any]:
    return query.join(token_usages, token_usages.c.interception_id == interceptions.c.id)


def _used(
    connection: Connection, keys: dict[str, ColumnElement[Any]], filters: Filters, after: Place | None, last: Place
) -> dict[Place, Row[Any]]:
    """Return what was used by the groups from *after*, without it, to *last*."""
    query = _with_usages(_matching(connection, filters, keys))
    query = query.add_columns(func.count(_UNPRICED_ID.distinct()).label("unpriced_requests"), *_SUMS)
    if keys:
        query = query.where(tuple_(*keys.values()) <= place(list(keys.values()), last))
    if after is not None:
        query = query.where(tuple_(*keys.values()) > place(list(keys.values()), after))
    return {_place(row, keys): row for row in connection.execute(query)}


def _place(row: Row[Any], keys: dict[str, ColumnElement[Any]]) -> Place:
    return tuple(row[: len(keys)])


def _names(connection: Connection, ids: Collection[int | str]) -> dict[int | str, str]:
    query = select(users.c.id, users.c.name).where(users.c.id.in_(ids))
    return {row.id: row.name for row in connection.execute(query)} if ids else {}


def _row(
    place: Place,
    keys: dict[str, ColumnElement[Any]],
    requests: int,
    used: Row[Any] | None,
    names: dict[int | str, str],
) -> UsageRow:
    members: dict[str, Any] = dict(zip(keys, place, strict=True))
    if "day" in members:
        members["day"] = (EPOCH_DAY + timedelta(days=members["day"])).isoformat()
    if "user_id" in members:
        members["user"] = names.get(members["user_id"], members["user_id"])
    if used is not None:
        members |= {name: sums.whole(used, name) for name in (*TOKENS, "cost_micros")}
        members["unpriced_requests"] = used.unpriced_requests
    return UsageRow(requests=requests, **members)
