"""Records into tables, many at a time, so that applying any of them again changes nothing."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, Text, case, func, literal, select, update

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
from bridgeserver.store import bulk, revisions, schema
from bridgeserver.store.bulk import Row
from bridgeserver.store.schema import Timestamp, interceptions


class _Insert:
    """How records of one type become rows."""

    def __init__(
        self, kind: type[AnyRecord], table: Table, row: Callable[[Any], Row] = msgspec.structs.astuple
    ) -> None:
        self.statement = bulk.insert(table, kind.__struct_fields__)
        self.row = row


EXTRA = TokenUsage.__struct_fields__.index("extra")


def _usage_row(usage: TokenUsage) -> Row:
    row = msgspec.structs.astuple(usage)
    return (*row[:EXTRA], msgspec.json.encode(usage.extra).decode(), *row[EXTRA + 1 :])


_INSERTS: dict[type[AnyRecord], _Insert] = {
    Interception: _Insert(Interception, interceptions),
    UserPrompt: _Insert(UserPrompt, schema.user_prompts),
    TokenUsage: _Insert(TokenUsage, schema.token_usages, _usage_row),
    ToolUse: _Insert(ToolUse, schema.tool_usages),
    ModelThought: _Insert(ModelThought, schema.model_thoughts),
    ProviderObject: _Insert(ProviderObject, schema.provider_objects),
    ContinuedResponse: _Insert(ContinuedResponse, schema.continued_responses),
}

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


def apply(connection: Connection, records: Sequence[AnyRecord]) -> int:
    """Store *records* and return how many of them were new.

    The first end of an interception wins. An end must not come in an earlier call than its interception: it
    would be passed over. Within one call the order does not matter.
    """
    by_type: dict[type[AnyRecord], list[Any]] = defaultdict(list)
    for record in records:
        by_type[type(record)].append(record)
    ends: list[InterceptionEnd] = by_type.pop(InterceptionEnd, [])
    changed = 0
    if ends:
        changed, by_type[Interception] = _apply_ends(connection, by_type[Interception], ends)
    for kind, insert in _INSERTS.items():  # always in this order: others may be writing the same rows
        changed += insert.statement.run(connection, [insert.row(record) for record in by_type[kind]])
    return changed


def _apply_ends(
    connection: Connection, begun: Iterable[Interception], ends: Iterable[InterceptionEnd]
) -> tuple[int, list[Interception]]:
    """Store *ends*, and those of *begun* that they end; return how much was new, and the rest of *begun*."""
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
    changed = 2 * added
    if added == len(whole):
        # What was added is ended; an update would only look for it again.
        for row in whole:
            first.pop(row[0], None)
    return changed + _END.run(connection, [(hints.get(id_), *row, id_) for id_, row in first.items()]), still_open


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
