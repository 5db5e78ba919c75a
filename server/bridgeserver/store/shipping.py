"""Records into tables, many at a time, so that applying any of them again changes nothing."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, Text, bindparam, case, func, literal, select, update

from bridgeserver.prices import MAX_TOKENS, UNKNOWN, Cost, PriceList, Source, is_countable
from bridgeserver.records import (
    AnyRecord,
    ContinuedResponse,
    Interception,
    InterceptionEnd,
    ModelThought,
    ProviderObject,
    TokenUsage,
    ToolUse,
    UserPrompt,
)
from bridgeserver.store import bulk, lineage, revisions, schema, sessions
from bridgeserver.store.bulk import Row
from bridgeserver.store.schema import Timestamp, interceptions


class _Insert:
    """How records of one type become rows."""

    def __init__(
        self, kind: type[AnyRecord], table: Table, row: Callable[[Any], Row] = msgspec.structs.astuple
    ) -> None:
        self.statement = bulk.insert(table, kind.__struct_fields__)
        self.row = row


FIRST_COUNT = TokenUsage.__struct_fields__.index("input_tokens")
EXTRA = TokenUsage.__struct_fields__.index("extra")


def _usage_row(usage: TokenUsage, cost: Cost) -> Row:
    row = msgspec.structs.astuple(usage)
    extra = msgspec.json.encode(usage.extra).decode() if usage.extra else "{}"
    if cost.cost_micros is None and not is_countable(usage):
        counts = (min(max(count, 0), MAX_TOKENS) for count in row[FIRST_COUNT:EXTRA])
        row = (*row[:FIRST_COUNT], *counts, *row[EXTRA:])
    return (*row[:EXTRA], extra, *row[EXTRA + 1 :], *cost)


_INSERTS: dict[type[AnyRecord], _Insert] = {
    UserPrompt: _Insert(UserPrompt, schema.user_prompts),
    ToolUse: _Insert(ToolUse, schema.tool_usages),
    ModelThought: _Insert(ModelThought, schema.model_thoughts),
    ProviderObject: _Insert(ProviderObject, schema.provider_objects),
    ContinuedResponse: _Insert(ContinuedResponse, schema.continued_responses),
}

_BEGUN = bulk.insert(interceptions, Interception.__struct_fields__)
_USAGE = bulk.insert(schema.token_usages, [*TokenUsage.__struct_fields__, *Cost._fields])
_SOURCES = select(
    interceptions.c.id, interceptions.c.provider, interceptions.c.provider_name, interceptions.c.model
).where(interceptions.c.id.in_(bindparam("ids", expanding=True)))

_IS_OPEN = interceptions.c.ended_at.is_(None)

_END_COLUMNS = [*InterceptionEnd.__struct_fields__[1:-1], "end_batch"]

# The statement sets columns in their order in the table, so the hint comes first.
_END = bulk.update(
    {
        "last_hint": Text(),
        **{name: interceptions.c[name].type for name in _END_COLUMNS},
        "interception_id": Text(),
    },
    lambda given: (
        update(interceptions)
        .where(interceptions.c.id == given["interception_id"], _IS_OPEN)
        .values(
            credential_hint=func.coalesce(given["last_hint"], interceptions.c.credential_hint),
            **{name: given[name] for name in _END_COLUMNS},
        )
    ),
)

_ENDED = bulk.insert(interceptions, [*Interception.__struct_fields__, *_END_COLUMNS])
"""Most requests begin and end within a batch: one statement stores both, and touches the indexes once."""

_SESSION = bulk.merge(schema.sessions, sessions.COLUMNS, sessions.merging)


def apply(connection: Connection, records: Sequence[AnyRecord], prices: PriceList, unpriced: list[Source]) -> int:
    """Store *records*, and what follows from them of threads and sessions; return how many of them were new.

    Token usages are priced by *prices*; of those without a cost the sources are added to *unpriced*.

    The first end of an interception wins. What belongs to an interception must not come in an earlier call than
    itself: an end would be passed over, the rest would be kept and not counted in. Within one call the order does
    not matter.
    """
    by_type: dict[type[AnyRecord], list[Any]] = defaultdict(list)
    for record in records:
        by_type[type(record)].append(record)
    begun: list[Interception] = by_type.pop(Interception, [])
    ends: list[InterceptionEnd] = by_type.pop(InterceptionEnd, [])
    usages: list[TokenUsage] = by_type.pop(TokenUsage, [])
    begun_count, ended_count = _apply_interceptions(connection, begun, ends)
    changed = begun_count + ended_count
    if usages:
        changed += _USAGE.run(connection, _usage_rows(connection, usages, begun, prices, unpriced))
    for kind, insert in _INSERTS.items():  # always in this order: others may be writing the same rows
        changed += insert.statement.run(connection, [insert.row(record) for record in by_type[kind]])
    are_new = begun_count == len(begun)
    moved = lineage.link(connection, begun, by_type[ToolUse], are_new=are_new)
    _keep_sessions(connection, begun, by_type[UserPrompt], moved, are_new=are_new)
    return changed


def _usage_rows(
    connection: Connection,
    usages: list[TokenUsage],
    begun: Iterable[Interception],
    prices: PriceList,
    unpriced: list[Source],
) -> list[Row]:
    sources = {record.id: Source(record.provider, record.provider_name, record.model) for record in begun}
    missing = {usage.interception_id for usage in usages} - sources.keys()
    for chunk in lineage.chunks(sorted(missing), lineage.CHUNK):
        sources |= {row.id: Source(*row[1:]) for row in connection.execute(_SOURCES, {"ids": chunk})}
    rows: list[Row] = []
    for usage in usages:
        source = sources.get(usage.interception_id)
        cost = UNKNOWN if source is None else prices.cost(usage, source)
        if cost.cost_micros is None and source is not None:
            unpriced.append(source)
        rows.append(_usage_row(usage, cost))
    return rows


def _keep_sessions(
    connection: Connection, begun: list[Interception], prompts: list[UserPrompt], moved: lineage.Moved, *, are_new: bool
) -> None:
    """Bring the sessions of these stored records up to date; what is new and has not moved need not be read for it."""
    times = sessions.prompted(prompts)
    ids = {interception.id for interception in begun}
    if are_new:
        unmoved = [interception for interception in begun if interception.id not in moved.ids] if moved.ids else begun
        _SESSION.run(connection, sessions.rows(unmoved, times))
        sessions.fold(connection, times.keys() - ids)
    else:
        sessions.fold(connection, times.keys() | ids)
    sessions.move(connection, moved)


def _apply_interceptions(
    connection: Connection, begun: list[Interception], ends: list[InterceptionEnd]
) -> tuple[int, int]:
    """Store what begins and what ends; return how many of each were new."""
    if ends:
        return _apply_ends(connection, begun, ends)
    return _begin(connection, begun), 0


def _begin(connection: Connection, begun: Iterable[Interception]) -> int:
    return _BEGUN.run(connection, [msgspec.structs.astuple(record) for record in begun])


def _apply_ends(
    connection: Connection, begun: Iterable[Interception], ends: Iterable[InterceptionEnd]
) -> tuple[int, int]:
    batch = revisions.advance(connection, revisions.ENDS)
    first: dict[str, Row] = {}
    hints: dict[str, str] = {}
    for end in ends:
        _id, *values, hint = msgspec.structs.astuple(end)
        if first.setdefault(end.interception_id, row := (*values, batch)) is row and hint is not None:
            hints[end.interception_id] = hint
    whole: list[Row] = []
    still_open: list[Interception] = []
    for interception in begun:
        end_row = first.get(interception.id)
        if end_row is None:
            still_open.append(interception)
        else:
            hint = hints.get(interception.id, interception.credential_hint)
            last = msgspec.structs.replace(interception, credential_hint=hint)
            whole.append(msgspec.structs.astuple(last) + end_row)
    added = _ENDED.run(connection, whole)
    if added == len(whole):
        # What was added is ended; an update would only look for it again.
        for row in whole:
            first.pop(row[0], None)
    added_open = _begin(connection, still_open)
    return added + added_open, added + _END.run(connection, [(hints.get(id_), *row, id_) for id_, row in first.items()])


def interrupt(connection: Connection, worker: str, ended_at: int) -> int:
    """End what *worker* left open, and return how many interceptions that were."""
    started_at = interceptions.c.started_at
    given = literal(ended_at, Timestamp)
    batch = revisions.advance(connection, revisions.ENDS)
    return connection.execute(
        update(interceptions)
        .where(interceptions.c.worker == worker, _IS_OPEN)
        .values(
            status="interrupted",
            error_type="gateway_stopped",
            error_message="the gateway process ended",
            ended_at=case((started_at > given, started_at), else_=given),
            end_batch=batch,
        ),
    ).rowcount


def open_workers(connection: Connection) -> list[str]:
    """Return the workers that have open interceptions."""
    return list(connection.execute(select(interceptions.c.worker).where(_IS_OPEN).distinct()).scalars())
