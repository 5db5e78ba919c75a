"""Sessions, the one that was active last first.

The page is chosen from the table that has a row a session. Their sums then come from the interceptions of those alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    and_,
    func,
    select,
    tuple_,
)

from bridgeserver.errors import InvalidMembers
from bridgeserver.store.instants import iso, iso_or_none
from bridgeserver.store.queries import sums
from bridgeserver.store.queries.filters import Filters, choose, times
from bridgeserver.store.queries.order import place
from bridgeserver.store.schema import interceptions, sessions, token_usages, user_prompts, users
from bridgeserver.store.views import Initiator, Session, Sessions, Tokens
from bridgeserver.tokens import redact

COUNT_LIMIT = 1000
PROMPT_CHARACTERS = 1000
"""What a list shows of a prompt."""

APART = 1 << 30
"""A limit that limits nothing keeps a query from being merged into the statement around it."""

Key = tuple[str, str]
"""A user and an id: clients choose the ids, so that two users may have the same."""


class Page(NamedTuple):
    """Which part of the list is meant: what comes after a cursor, or after a number of rows."""

    limit: int
    after: str | None = None
    offset: int = 0


def newest(connection: Connection, filters: Filters, page: Page) -> Sessions:
    """Return a page; raises InvalidMembers if its cursor is not a session that the owner may see."""
    query, is_quick = _matching(connection, filters)
    order = sessions.c.active_at, sessions.c.user_id, sessions.c.id
    wanted = query.order_by(*(each.desc() for each in order)).limit(page.limit + 1).offset(page.offset)
    if page.after is not None:
        wanted = wanted.where(tuple_(*order) < place(order, _place_of(connection, page.after, filters.owner)))
    rows = connection.execute(wanted).all()
    shown = rows[: page.limit]
    is_first = page.after is None and not page.offset
    count_limit = COUNT_LIMIT if is_quick else page.limit + 1
    return Sessions(
        count=len(rows) if is_first and not is_quick else _count(connection, query, count_limit),
        sessions=views(connection, shown),
        next=f"{shown[-1].user_id}:{shown[-1].id}" if len(rows) > len(shown) else None,
    )


def rows_of(connection: Connection, session_id: str, users_of: Sequence[str]) -> Sequence[Row[Any]]:
    """Return the sessions of that id, the one that was active last first, of all users or of those alone."""
    theirs = [sessions.c.user_id == user for user in users_of]
    query = _QUERY.where(sessions.c.id == session_id, *theirs).order_by(sessions.c.active_at.desc(), sessions.c.user_id)
    return connection.execute(query).all()


def views(connection: Connection, rows: Sequence[Row[Any]]) -> list[Session]:
    """Return sessions with their sums."""
    if not rows:
        return []
    page = _as_table(rows)
    facts = _facts(connection, page)
    tokens = _tokens(connection, page)
    prompts = _last_prompts(connection, page)
    return [_view(row, facts, tokens, prompts) for row in rows]


# A user whose row is missing is shown by id.
_QUERY = select(sessions, func.coalesce(users.c.name, sessions.c.user_id).label("user")).join_from(
    sessions, users, users.c.id == sessions.c.user_id, isouter=True
)


def _is_one_of(table: FromClause) -> ColumnElement[bool]:
    """Return the condition for an interception to belong to a session of *table*."""
    return and_(interceptions.c.user_id == table.c.user_id, interceptions.c.session_key == table.c.id)


def _as_table(rows: Sequence[Row[Any]]) -> CTE:
    """Return the chosen sessions as a table of their own, which every planner begins with.

    They are found by their ids alone, for which there is an index, so that there may be others' of the same id too.
    """
    chosen = select(sessions.c.user_id, sessions.c.id, sessions.c.prompted_at)
    return chosen.where(sessions.c.id.in_([row.id for row in rows])).limit(APART).cte("page")


def _count(connection: Connection, query: Select[Any], limit: int) -> int:
    rows = query.with_only_columns(sessions.c.id).limit(limit).subquery()
    return connection.execute(select(func.count()).select_from(rows)).scalar_one()


def _matching(connection: Connection, filters: Filters) -> tuple[Select[Any], bool]:
    """Return the query for the sessions of which one interception is as the filters say.

    And whether it finds them without a look at the interceptions of others.
    """
    chosen = choose(connection, msgspec.structs.replace(filters, session_id=None))
    query = _QUERY.where(*(sessions.c.user_id == user for user in chosen.users), *times(sessions.c.started_at, filters))
    if filters.started_after is not None:
        # It follows from the other condition, and is what the index is ordered by.
        query = query.where(sessions.c.active_at >= filters.started_after)
    if filters.session_id is not None:
        query = query.where(sessions.c.id == filters.session_id)
    if len(chosen.conditions) == len(chosen.users):
        return query, True
    if chosen.leads:
        found = select(interceptions.c.session_key, interceptions.c.user_id).where(*chosen.conditions).distinct()
        keys = connection.execute(found.limit(COUNT_LIMIT + 1)).all()
        if len(keys) <= COUNT_LIMIT:  # told how few there are, PostgreSQL does not read all sessions for them
            query = query.where(sessions.c.id.in_([key.session_key for key in keys]))
        return query.where(tuple_(sessions.c.id, sessions.c.user_id).in_(found.limit(APART))), True
    # The offset keeps PostgreSQL from asking for all such interceptions at once.
    like = select(interceptions.c.id).where(_is_one_of(sessions), *chosen.conditions).offset(0)
    return query.where(like.correlate(sessions).exists()), False


def _place_of(connection: Connection, cursor: str, owner: str | None) -> tuple[int, str, str]:
    """Return the place in the order that a cursor means: the `next` of a page, or the id of a session."""
    scope = () if owner is None else (owner,)
    user, _, session_id = cursor.partition(":")
    rows: Sequence[Row[Any]] = rows_of(connection, session_id, (*scope, user)) if session_id else []
    if not rows:
        rows = rows_of(connection, cursor, scope)
    if len(rows) != 1:
        found = "which is no session" if not rows else "which several users have"
        raise InvalidMembers([f"after_session_id: found {redact(cursor)[:64]!r}, {found}; give the `next` of a page"])
    return rows[0].active_at, rows[0].user_id, rows[0].id


class _Facts(NamedTuple):
    """What the interceptions of one session are together."""

    ended_at: int | None
    threads: int
    kinds: list[Any]
    """Rows of each provider, model and client among them, the first used first."""


def _facts(connection: Connection, page: CTE) -> dict[Key, _Facts]:
    columns = interceptions.c
    kind: tuple[ColumnElement[Any], ...] = (columns.provider_name, columns.model, columns.client)
    kinds: dict[Key, list[Any]] = defaultdict(list)
    key: tuple[ColumnElement[Any], ...] = (page.c.user_id, page.c.id)
    query = select(*key, *kind).join_from(page, interceptions, _is_one_of(page))
    query = query.group_by(*key, *kind).order_by(func.min(columns.started_at), *kind)
    for row in connection.execute(query):
        kinds[row.user_id, row.id].append(row)
    totals = select(
        page.c.user_id,
        page.c.id,
        func.count().label("requests"),
        func.count(columns.ended_at).label("ended"),
        func.max(columns.ended_at).label("ended_at"),
        func.count(func.coalesce(columns.thread_root_id, columns.id).distinct()).label("threads"),
    )
    totals = totals.join_from(page, interceptions, _is_one_of(page)).group_by(page.c.user_id, page.c.id)
    return {
        (row.user_id, row.id): _Facts(
            row.ended_at if row.requests == row.ended else None, row.threads, kinds[row.user_id, row.id]
        )
        for row in connection.execute(totals)
    }


def _tokens(connection: Connection, page: CTE) -> dict[Key, tuple[Tokens, int, int]]:
    """Return the tokens of each session, what they cost, and how many responses have no price."""
    query = (
        select(page.c.user_id, page.c.id, *sums.token_parts(), *sums.cost_parts())
        .join_from(page, interceptions, _is_one_of(page))
        .join(token_usages, token_usages.c.interception_id == interceptions.c.id)
        .group_by(page.c.user_id, page.c.id)
    )
    return {
        (row.user_id, row.id): (sums.tokens_of(row), sums.whole(row, "cost_micros"), row.unpriced)
        for row in connection.execute(query)
    }


def _last_prompts(connection: Connection, page: CTE) -> dict[Key, str]:
    # Asked for a session at a time: as a join SQLite would begin with all the prompts there are.
    text = (
        select(func.substr(user_prompts.c.text, 1, PROMPT_CHARACTERS))
        .join_from(interceptions, user_prompts, user_prompts.c.interception_id == interceptions.c.id)
        .where(_is_one_of(page), user_prompts.c.created_at == page.c.prompted_at)
        .order_by(user_prompts.c.interception_id.desc(), user_prompts.c.seq.desc())
        .limit(1)
        .correlate(page)
        .scalar_subquery()
    )
    query = select(page.c.user_id, page.c.id, text.label("text"))
    return {(row.user_id, row.id): row.text for row in connection.execute(query)}


def _view(
    row: Row[Any],
    facts: dict[Key, _Facts],
    tokens: dict[Key, tuple[Tokens, int, int]],
    prompts: dict[Key, str],
) -> Session:
    key = row.user_id, row.id
    fact = facts.get(key, _Facts(None, 0, []))  # a session of which nothing is left
    used, cost_micros, unpriced = tokens.get(key, (Tokens(), 0, 0))
    return Session(
        id=row.id,
        initiator=Initiator(id=row.user_id, username=row.user),
        providers=sorted({kind.provider_name for kind in fact.kinds}),
        models=sorted({kind.model for kind in fact.kinds}),
        client=fact.kinds[0].client if fact.kinds else "Unknown",
        started_at=iso(row.started_at),
        ended_at=iso_or_none(fact.ended_at),
        last_active_at=iso(row.active_at),
        threads=fact.threads,
        token_usage_summary=used,
        cost_micros=cost_micros,
        unpriced=unpriced,
        last_prompt=prompts.get(key),
    )
