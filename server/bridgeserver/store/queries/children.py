"""What belongs to interceptions: one statement a table for all of a page."""

from collections import defaultdict
from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Table, select

from bridgeserver.store.schema import model_thoughts, token_usages, tool_usages, user_prompts
from bridgeserver.store.views import Response, Thought, Tokens, ToolCall

ByInterception = dict[str, list[Row[Any]]]


class Children(NamedTuple):
    """The rows of each table, by the interception to which they belong."""

    usages: ByInterception
    prompts: ByInterception
    tools: ByInterception
    thoughts: ByInterception


def read(connection: Connection, ids: Collection[str]) -> Children:
    """Return all that belongs to these interceptions."""
    tables = token_usages, user_prompts, tool_usages, model_thoughts
    return Children(*(_read(connection, table, ids) for table in tables))


def _read(connection: Connection, table: Table, ids: Collection[str]) -> ByInterception:
    by_id: ByInterception = defaultdict(list)
    query = select(table).where(table.c.interception_id.in_(ids)).order_by(table.c.interception_id, table.c.seq)
    for row in connection.execute(query):
        by_id[row.interception_id].append(row)
    return by_id


def response(row: Row[Any]) -> Response:
    return Response(
        response_id=row.response_id,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cache_read_tokens=row.cache_read_tokens,
        cache_write_tokens=row.cache_write_tokens,
        cost_micros=row.cost_micros,
        partial=row.partial,
        stop_reason=row.stop_reason,
        service_tier=row.service_tier,
    )


def tool_call(row: Row[Any]) -> ToolCall:
    return ToolCall(
        name=row.name,
        server=row.server,
        injected=row.injected,
        error=row.error,
        tool_call_id=row.tool_call_id,
        arguments=row.arguments,
        truncated=row.truncated,
        duration_us=row.duration_us,
        result=row.result,
    )


def thought(row: Row[Any]) -> Thought:
    return Thought(source=row.source, text=row.text, truncated=row.truncated)


def tokens(rows: Collection[Row[Any]]) -> Tokens:
    """Return the sums over token usages."""
    return Tokens(
        input_tokens=sum(row.input_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
        cache_read_tokens=sum(row.cache_read_tokens for row in rows),
        cache_write_tokens=sum(row.cache_write_tokens for row in rows),
    )


def cost(rows: Collection[Row[Any]]) -> int | None:
    """Return the sum over the token usages that have a price, None where none has."""
    costs = [row.cost_micros for row in rows if row.cost_micros is not None]
    return sum(costs) if costs else None


def unpriced(rows: Collection[Row[Any]]) -> int:
    """Return how many token usages have no price."""
    return sum(row.cost_micros is None for row in rows)
