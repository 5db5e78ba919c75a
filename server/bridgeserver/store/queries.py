"""Interceptions with what belongs to them, a page at a time.

A page is chosen by an index first; what belongs to its rows is then read with one statement a table. So the
cost follows the page and never the size of the tables, and no transaction stays open between pages.
"""

from collections import defaultdict
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, func, literal, select, tuple_

from bridgeserver.errors import StoreError
from bridgeserver.store import revisions
from bridgeserver.store.instants import iso, iso_or_none
from bridgeserver.store.schema import interceptions, token_usages, tool_usages, user_prompts, users

PAGE_ROWS = 100
"""A recorded prompt may have 1 MiB, so this bounds the memory of a page."""

Record = dict[str, Any]


class Start(NamedTuple):
    """A place in the order of beginnings."""

    started_at: int
    id: str


class End(NamedTuple):
    """A place in the order of ends, as they were stored."""

    batch: int
    ended_at: int
    id: str


def start_of(connection: Connection, interception_id: str) -> Start:
    """Return the place of an interception; raises StoreError if it is not there."""
    columns = select(interceptions.c.started_at, interceptions.c.id)
    row = connection.execute(columns.where(interceptions.c.id == interception_id)).first()
    if row is None:
        raise StoreError(f"no interception with id {interception_id!r} to go on after")
    return Start(*row)


def started_after(
    connection: Connection, place: Start | None, limit: int, user: str | None
) -> list[tuple[Start, Record]]:
    """Return up to *limit* records that come after *place*, the oldest first."""
    order = interceptions.c.started_at, interceptions.c.id
    query = _QUERY.order_by(*order).limit(limit)
    if place is not None:
        query = query.where(_is_after(order, place))
    if user is not None:
        query = query.where(interceptions.c.user_id == select(users.c.id).where(users.c.name == user).scalar_subquery())
    return [(Start(row.started_at, row.id), record) for row, record in _page(connection, query)]


def last_end(connection: Connection) -> End:
    """Return the place after every end that is stored now."""
    return End(revisions.current(connection, revisions.ENDS) + 1, 0, "")


def ended_after(connection: Connection, place: End, limit: int) -> list[tuple[End, Record]]:
    """Return up to *limit* records whose ends were stored after *place*, by batch and then by time."""
    order = interceptions.c.end_batch, interceptions.c.ended_at, interceptions.c.id
    query = _QUERY.where(_is_after(order, place), interceptions.c.end_batch.is_not(None))
    query = query.order_by(*order).limit(limit)
    return [(End(row.end_batch, row.ended_at, row.id), record) for row, record in _page(connection, query)]


# A user whose row is missing is shown by id: records count, however they came about.
_QUERY = select(interceptions, func.coalesce(users.c.name, interceptions.c.user_id).label("user")).join_from(
    interceptions, users, users.c.id == interceptions.c.user_id, isouter=True
)


def _is_after(order: tuple[ColumnElement[Any], ...], place: Start | End) -> ColumnElement[bool]:
    values = (literal(value, column.type) for column, value in zip(order, place, strict=True))
    return tuple_(*order) > tuple_(*values)


def _page(connection: Connection, query: Select[Any]) -> list[tuple[Row[Any], Record]]:
    rows = connection.execute(query).all()
    if not rows:
        return []
    ids = [row.id for row in rows]
    usages = _children(connection, token_usages, ids)
    prompts = _children(connection, user_prompts, ids)
    tools = _children(connection, tool_usages, ids)
    return [(row, _record(row, usages[row.id], prompts[row.id], tools[row.id])) for row in rows]


def _children(connection: Connection, table: Table, ids: list[str]) -> dict[str, list[Row[Any]]]:
    by_id: dict[str, list[Row[Any]]] = defaultdict(list)
    query = select(table).where(table.c.interception_id.in_(ids)).order_by(table.c.interception_id, table.c.seq)
    for row in connection.execute(query):
        by_id[row.interception_id].append(row)
    return by_id


def _record(row: Row[Any], usages: list[Row[Any]], prompts: list[Row[Any]], tools: list[Row[Any]]) -> Record:
    return {
        "id": row.id,
        "user": row.user,
        "provider": row.provider,
        "provider_name": row.provider_name,
        "model": row.model,
        "client": row.client,
        "session_id": row.session_id,
        "started_at": iso(row.started_at),
        "ended_at": iso_or_none(row.ended_at),
        "status": row.status,
        "http_status": row.http_status,
        "streaming": row.streaming,
        # Summed here and not in SQL, where a provider's absurd counts would overflow and fail the query.
        "input_tokens": sum(usage.input_tokens for usage in usages),
        "output_tokens": sum(usage.output_tokens for usage in usages),
        "cache_read_tokens": sum(usage.cache_read_tokens for usage in usages),
        "cache_write_tokens": sum(usage.cache_write_tokens for usage in usages),
        "prompt": prompts[0].text if prompts else None,
        "tools": [
            {"name": tool.name, "server": tool.server, "injected": tool.injected, "error": tool.error} for tool in tools
        ],
        "error_type": row.error_type,
    }
