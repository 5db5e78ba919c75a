"""Interceptions with what belongs to them, a page at a time; no transaction stays open between pages."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select, tuple_

from bridgeserver.errors import InvalidMembers, NotFound, StoreError
from bridgeserver.store import revisions
from bridgeserver.store.instants import iso, iso_or_none
from bridgeserver.store.queries import children, order
from bridgeserver.store.queries.children import Children
from bridgeserver.store.queries.filters import Filters, choose, times
from bridgeserver.store.schema import interceptions, users
from bridgeserver.store.views import Interception, Interceptions, ToolName
from bridgeserver.tokens import redact

PAGE_ROWS = 100
"""A recorded prompt may have 1 MiB, so this bounds the memory of a page."""

PIECE_ROWS = 50
PAGE_CHARACTERS = 8 << 20
"""A page ends with the piece whose texts go beyond this, however many rows were asked for."""


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
    place = _find_start(connection, interception_id, None)
    if place is None:
        raise StoreError(f"no interception with id {interception_id!r} to go on after")
    return place


def started_after(
    connection: Connection, place: Start | None, limit: int, filters: Filters
) -> tuple[list[tuple[Start, Interception]], bool]:
    """Return up to *limit* records that come after *place*, the oldest first, and whether there are more."""
    query = _matching(connection, filters).order_by(*_ORDER)
    if place is not None:
        query = query.where(_is_after(_ORDER, place))
    page, has_more = _page(connection, query, limit)
    return [(Start(row.started_at, row.id), record) for row, record in page], has_more


def newest(connection: Connection, filters: Filters, after: str | None, limit: int) -> Interceptions:
    """Return a page, the newest first, that goes on after the interception with the id *after*.

    Raises InvalidMembers if that is not one that the owner may see.
    """
    query = _matching(connection, filters).order_by(*(column.desc() for column in _ORDER))
    if after is not None:
        place = _find_start(connection, after, filters.owner)
        if place is None:
            raise InvalidMembers(
                [f"after: found {redact(after)[:64]!r}, which is no interception; give the `next` of a page"]
            )
        query = query.where(tuple_(*_ORDER) < order.place(_ORDER, place))
    page, has_more = _page(connection, query, limit)
    records = [record for _row, record in page]
    return Interceptions(interceptions=records, next=records[-1].id if has_more else None)


def before_last(connection: Connection, filters: Filters, count: int) -> Start | None:
    """Return the place after which there are *count* interceptions, None where there are no more than that."""
    query = _matching(connection, filters).with_only_columns(*_ORDER)
    row = connection.execute(query.order_by(*(column.desc() for column in _ORDER)).limit(1).offset(count)).first()
    return None if row is None else Start(*row)


def find(connection: Connection, interception_id: str, owner: str | None) -> Interception:
    """Return one interception; raises NotFound, also where it is not one of the *owner*."""
    query = _QUERY.where(interceptions.c.id == interception_id, *_owned_by(owner))
    page, _has_more = _page(connection, query, 1)
    if not page:
        raise NotFound("Interception not found.")
    return page[0][1]


def count(connection: Connection, filters: Filters) -> int:
    """Return how many there are."""
    return connection.execute(select(func.count()).select_from(_matching(connection, filters).subquery())).scalar_one()


def last_end(connection: Connection) -> End:
    """Return the place after every end that is stored now."""
    return End(revisions.current(connection, revisions.ENDS) + 1, 0, "")


def ended_after(
    connection: Connection, place: End, limit: int, filters: Filters
) -> tuple[list[tuple[End, Interception]], bool]:
    """Return up to *limit* records whose ends were stored after *place*, by batch and then by time, as above."""
    order = interceptions.c.end_batch, interceptions.c.ended_at, interceptions.c.id
    query = _matching(connection, filters).where(_is_after(order, place), interceptions.c.end_batch.is_not(None))
    page, has_more = _page(connection, query.order_by(*order), limit)
    return [(End(row.end_batch, row.ended_at, row.id), record) for row, record in page], has_more


_ORDER = interceptions.c.started_at, interceptions.c.id

# A user whose row is missing is shown by id: records count, however they came about.
_QUERY = select(interceptions, func.coalesce(users.c.name, interceptions.c.user_id).label("user")).join_from(
    interceptions, users, users.c.id == interceptions.c.user_id, isouter=True
)


def _matching(connection: Connection, filters: Filters) -> Select[Any]:
    return _QUERY.where(*choose(connection, filters).conditions, *times(interceptions.c.started_at, filters))


def _owned_by(owner: str | None) -> list[ColumnElement[bool]]:
    return [] if owner is None else [interceptions.c.user_id == owner]


def _find_start(connection: Connection, interception_id: str, owner: str | None) -> Start | None:
    query = select(*_ORDER).where(interceptions.c.id == interception_id, *_owned_by(owner))
    row = connection.execute(query).first()
    return None if row is None else Start(*row)


def _is_after(columns: tuple[ColumnElement[Any], ...], place: Start | End) -> ColumnElement[bool]:
    return tuple_(*columns) > order.place(columns, place)


def _page(connection: Connection, query: Select[Any], limit: int) -> tuple[list[tuple[Row[Any], Interception]], bool]:
    """Return rows with what belongs to them, fewer than *limit* if their texts are long, and whether there are more."""
    rows = connection.execute(query.limit(limit + 1)).all()
    found: list[tuple[Row[Any], Interception]] = []
    characters = 0
    remaining = iter(rows[:limit])
    while characters < PAGE_CHARACTERS and (piece := list(islice(remaining, PIECE_ROWS))):
        belongings = children.read(connection, [row.id for row in piece])
        found += [(row, _record(row, belongings)) for row in piece]
        characters += sum(_lengths(belongings))
    return found, len(found) < len(rows)


def _lengths(belongings: Children) -> Iterator[int]:
    for group in (belongings.prompts, belongings.thoughts):
        yield from (len(row.text) for rows in group.values() for row in rows)
    for rows in belongings.tools.values():
        yield from (len(row.arguments) + len(row.result or "") for row in rows)


def _record(row: Row[Any], belongings: Children) -> Interception:
    usages, prompts, tools, thoughts = (group[row.id] for group in belongings)
    # Summed here and not in SQL, where a provider's absurd counts would overflow and fail the query.
    tokens = children.tokens(usages)
    return Interception(
        id=row.id,
        user=row.user,
        provider=row.provider,
        provider_name=row.provider_name,
        model=row.model,
        client=row.client,
        session_id=row.session_id,
        started_at=iso(row.started_at),
        ended_at=iso_or_none(row.ended_at),
        status=row.status,
        http_status=row.http_status,
        streaming=row.streaming,
        input_tokens=tokens.input_tokens,
        output_tokens=tokens.output_tokens,
        cache_read_tokens=tokens.cache_read_tokens,
        cache_write_tokens=tokens.cache_write_tokens,
        prompt=prompts[0].text if prompts else None,
        tools=[
            ToolName(name=tool.name, server=tool.server, injected=tool.injected, error=tool.error) for tool in tools
        ],
        error_type=row.error_type,
        error_message=row.error_message,
        user_id=row.user_id,
        key_id=row.key_id,
        protocol=row.protocol,
        session_key=row.session_key,
        thread_id=row.thread_root_id or row.id,
        thread_parent_id=row.thread_parent_id,
        credential_kind=row.credential_kind,
        credential_hint=row.credential_hint,
        attempts=row.attempts,
        cost_micros=children.cost(usages),
        unpriced=children.unpriced(usages),
        responses=[children.response(usage) for usage in usages],
        tool_calls=[children.tool_call(tool) for tool in tools],
        thoughts=[children.thought(found) for found in thoughts],
    )
