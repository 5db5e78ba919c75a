"""One session: its threads, the oldest first, and what an agent did in each."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, select

from bridgeserver.errors import InvalidMembers, NotFound
from bridgeserver.store.instants import iso, iso_or_none
from bridgeserver.store.queries import children, sessions
from bridgeserver.store.queries.children import Children
from bridgeserver.store.queries.filters import Filters, owners
from bridgeserver.store.schema import interceptions
from bridgeserver.store.views import Action, SessionThreads, Thread
from bridgeserver.tokens import redact


class Page(NamedTuple):
    """Which threads are meant: those after one, those before one, or the first."""

    limit: int
    after_id: str | None = None
    before_id: str | None = None


def find(connection: Connection, session_id: str, filters: Filters, page: Page) -> SessionThreads:
    """Return a session; of several users' that of the filters, else the one that was active last.

    Raises NotFound, also where it is another user's than the owner's, and InvalidMembers for an unknown cursor.
    """
    rows = sessions.rows_of(connection, session_id, owners(connection, filters))
    if not rows:
        raise NotFound("Session not found.")
    (session,) = sessions.views(connection, rows[:1])
    user_id = rows[0].user_id
    ids = _thread_ids(connection, user_id, session_id)
    chosen = _part(ids, page)
    shown = ids[chosen]
    return SessionThreads(
        session=session,
        threads=_threads(connection, user_id, session_id, shown),
        previous=shown[0] if shown and chosen.start > 0 else None,
        next=shown[-1] if shown and chosen.stop < len(ids) else None,
    )


_ROOT = func.coalesce(interceptions.c.thread_root_id, interceptions.c.id)


def _thread_ids(connection: Connection, user_id: str, session_id: str) -> list[str]:
    columns = interceptions.c
    query = select(_ROOT).where(columns.user_id == user_id, columns.session_key == session_id)
    return list(connection.execute(query.group_by(_ROOT).order_by(func.min(columns.started_at), _ROOT)).scalars())


def _part(ids: Sequence[str], page: Page) -> slice:
    if page.after_id is not None:
        start = _index(ids, "after_id", page.after_id) + 1
        return slice(start, min(start + page.limit, len(ids)))
    if page.before_id is not None:
        stop = _index(ids, "before_id", page.before_id)
        return slice(max(0, stop - page.limit), stop)
    return slice(0, min(page.limit, len(ids)))


def _index(ids: Sequence[str], member: str, thread_id: str) -> int:
    try:
        return ids.index(thread_id)
    except ValueError as exc:
        raise InvalidMembers(
            [f"{member}: found {redact(thread_id)[:64]!r}, which is no thread of this session"]
        ) from exc


def _threads(connection: Connection, user_id: str, session_id: str, ids: Sequence[str]) -> list[Thread]:
    columns = interceptions.c
    query = (
        select(interceptions, _ROOT.label("root"))
        .where(columns.user_id == user_id, columns.session_key == session_id, _ROOT.in_(ids))
        .order_by(columns.started_at, columns.id)
    )
    by_thread: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(query):
        by_thread[row.root].append(row)
    belongings = children.read(connection, [row.id for rows in by_thread.values() for row in rows])
    return [_thread(thread_id, by_thread[thread_id], belongings) for thread_id in ids]


def _thread(thread_id: str, rows: Sequence[Row[Any]], belongings: Children) -> Thread:
    first, last = rows[0], rows[-1]
    usages = [usage for row in rows for usage in belongings.usages[row.id]]
    prompts = [prompt.text for row in rows for prompt in belongings.prompts[row.id]]
    is_open = any(row.ended_at is None for row in rows)
    return Thread(
        id=thread_id,
        prompt=prompts[0] if prompts else None,
        model=first.model,
        provider=first.provider_name,
        credential_kind=last.credential_kind,
        credential_hint=last.credential_hint,
        started_at=iso(first.started_at),
        ended_at=iso_or_none(None if is_open else max(row.ended_at for row in rows)),
        error_type=last.error_type,
        error_message=last.error_message,
        token_usage=children.tokens(usages),
        cost_micros=children.cost(usages) or 0,
        unpriced=children.unpriced(usages),
        agentic_actions=[_action(row, belongings) for row in rows],
    )


def _action(row: Row[Any], belongings: Children) -> Action:
    return Action(
        interception_id=row.id,
        model=row.model,
        started_at=iso(row.started_at),
        thinking=[children.thought(found) for found in belongings.thoughts[row.id]],
        token_usage=children.tokens(belongings.usages[row.id]),
        tool_calls=[children.tool_call(tool) for tool in belongings.tools[row.id]],
    )
