"""Threads: an interception that brings the result of a tool call goes on from the one whose model made that call.

Its parent is the interception of the newest call with that id, of the same user and begun before it; its root is the
parent's, or the parent itself. So both follow from what is stored and not from the order in which it came. Clients and
providers choose these ids, and some repeat them. That a parent began earlier, by time and then by id, is what keeps any
of them from making a circle.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import BindParameter, Connection, Row, Select, bindparam, select, tuple_, update

from bridgeserver.records import Interception, ToolUse
from bridgeserver.store import revisions
from bridgeserver.store.schema import interceptions, tool_usages

T = TypeVar("T")

CHUNK = 256
"""How many ids are asked for at a time."""

SessionKey = tuple[str, str]
"""A user's id and an interception's `session_key`."""


class Moved(NamedTuple):
    """What has another session than it had before."""

    ids: frozenset[str]
    left: frozenset[SessionKey]
    """The sessions that they were in."""


NOTHING_MOVED = Moved(frozenset(), frozenset())

_child, _parent = interceptions.alias("child"), interceptions.alias("parent")

_PARENT = (
    select(_parent.c.id)
    .join_from(tool_usages, _parent, _parent.c.id == tool_usages.c.interception_id)
    .where(
        tool_usages.c.user_id == _child.c.user_id,
        tool_usages.c.tool_call_id == _child.c.correlating_tool_call_id,
        _parent.c.user_id == _child.c.user_id,
        tuple_(_parent.c.started_at, _parent.c.id) < tuple_(_child.c.started_at, _child.c.id),
    )
    .order_by(tool_usages.c.created_at.desc(), tool_usages.c.interception_id.desc())
    .limit(1)
    .correlate(_child)
    .scalar_subquery()
)

_NODE = [interceptions.c[name] for name in ("id", "user_id", "session_id", "thread_parent_id", "thread_root_id")]

_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_CHILDREN = select(*(_child.c[column.name] for column in _NODE), _PARENT.label("parent")).where(_child.c.id.in_(_IDS))
_NODES = select(*_NODE).where(interceptions.c.id.in_(_IDS))
_THREADS = select(*_NODE).where(interceptions.c.thread_root_id.in_(_IDS))

_STARTS = select(interceptions.c.id, interceptions.c.started_at).where(interceptions.c.id.in_(_IDS))

# One user at a time: SQLite finds no index for a list of pairs.
_WAITING = select(interceptions.c.id).where(
    interceptions.c.user_id == bindparam("user"),
    interceptions.c.correlating_tool_call_id.in_(_IDS),
    interceptions.c.started_at >= bindparam("since"),
)

_LINK = (
    update(interceptions)
    .where(interceptions.c.id == bindparam("link_id"))
    .values(thread_parent_id=bindparam("link_parent"), thread_root_id=bindparam("link_root"))
)


def link(connection: Connection, begun: Iterable[Interception], tools: Sequence[ToolUse], *, are_new: bool) -> Moved:
    """Give what these stored records make a child its parent, and all below it their root.

    With *are_new* none of *begun* was stored before, or is in a session yet.
    """
    children = {interception.id for interception in begun if interception.correlating_tool_call_id is not None}
    if not children and not tools:
        return NOTHING_MOVED
    # Another gateway may be storing the other half of a pair, which is not seen before it commits.
    revisions.hold(connection, revisions.ENDS)
    waiting = _waiting(connection, tools)
    found = {
        row.id: row
        for row in _rows(connection, _CHILDREN, children | waiting)
        if row.parent is not None and row.parent != row.thread_parent_id
    }
    if not found:
        return NOTHING_MOVED
    moved = [row for row in _place(connection, found) if row.session_id is None]
    newcomers = children if are_new else frozenset[str]()
    return Moved(
        frozenset(row.id for row in moved),
        frozenset((row.user_id, row.thread_root_id or row.id) for row in moved if row.id not in newcomers),
    )


def _waiting(connection: Connection, tools: Sequence[ToolUse]) -> set[str]:
    """Return the stored interceptions that these calls may be answered by: none that began before all who made one."""
    rows = _rows(connection, _STARTS, {tool.interception_id for tool in tools})
    starts = {row.id: row.started_at for row in rows}
    by_user: dict[str, list[ToolUse]] = defaultdict(list)
    for tool in tools:
        if tool.user_id is not None and tool.interception_id in starts:
            by_user[tool.user_id].append(tool)
    found: set[str] = set()
    for user, calls in by_user.items():
        since = min(starts[call.interception_id] for call in calls)
        rows = _rows(connection, _WAITING, {call.tool_call_id for call in calls}, user=user, since=since)
        found.update(row.id for row in rows)
    return found


def _place(connection: Connection, children: Mapping[str, Row[Any]]) -> list[Row[Any]]:
    """Store the new parents of *children*, and the roots of these and of all that go on from them.

    Return the rows that changed, as they were.
    """
    nodes = dict(children)
    nodes |= {
        row.id: row for row in _rows(connection, _THREADS, {row.thread_root_id or row.id for row in nodes.values()})
    }
    parents = {id_: children[id_].parent if id_ in children else row.thread_parent_id for id_, row in nodes.items()}
    roots = {
        row.id: row.thread_root_id or row.id
        for row in _rows(connection, _NODES, {row.parent for row in children.values()} - nodes.keys())
    }
    # What hangs on a row that is not part of this keeps its root: it is the root itself, or was purged.
    roots |= {
        id_: row.thread_root_id
        for id_, row in nodes.items()
        if id_ not in children and row.thread_root_id is not None and parents[id_] not in nodes
    }
    for id_ in nodes:
        _find_root(id_, parents, roots)
    changed = [
        row
        for id_, row in nodes.items()
        if (row.thread_parent_id, row.thread_root_id or id_) != (parents[id_], roots[id_])
    ]
    connection.execute(
        _LINK, [{"link_id": row.id, "link_parent": parents[row.id], "link_root": roots[row.id]} for row in changed]
    )
    return changed


def _find_root(id_: str, parents: Mapping[str, str | None], roots: dict[str, str]) -> None:
    """Note the root of an interception and of all between the two; that of the topmost is known, or is itself."""
    path: list[str] = []
    at = id_
    while at not in roots:
        path.append(at)
        above = parents[at]
        if above is None:
            break
        at = above
    roots |= dict.fromkeys(path, roots.get(at, at))


def _rows(
    connection: Connection, query: Select[*tuple[Any, ...]], ids: Iterable[str], **values: object
) -> Iterator[Row[Any]]:
    for chunk in chunks(sorted(ids), CHUNK):
        yield from connection.execute(query, {"ids": chunk} | values).all()


def chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield *items* in lists of at most that size."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
