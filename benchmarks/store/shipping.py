"""What it costs to ship records to a store: the requests of coding agents, in batches as a shipper makes them."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from statistics import median
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Table

from benchmarks.store import rows
from benchmarks.store.rows import Rows, Scale
from bridgeserver.batches import GROWTH, RECORDS
from bridgeserver.records import (
    AnyRecord,
    Interception,
    InterceptionEnd,
    ModelThought,
    TokenUsage,
    ToolUse,
    UserPrompt,
)
from bridgeserver.store import Store, schema
from bridgeserver.store.queries.filters import ALL

SIZES = (RECORDS, RECORDS * GROWTH)
"""Records of a batch: while there is little to ship, and while as much waits as fits."""

LEAST_RECORDS = 3
"""What each request has: its beginning, tokens and its end."""

HOUR_US = 3600 * rows.SECOND_US

CHILDREN: dict[Table, type[AnyRecord]] = {
    schema.user_prompts: UserPrompt,
    schema.token_usages: TokenUsage,
    schema.tool_usages: ToolUse,
    schema.model_thoughts: ModelThought,
}

R = TypeVar("R", bound=AnyRecord)


class Batch(NamedTuple):
    """Some whole requests."""

    requests: int
    records: list[AnyRecord]


def measure(store: Store, rounds: int, server_us: Callable[[], float | None]) -> Iterator[dict[str, Any]]:
    """Yield medians for each size of batches; *server_us* tells what CPU time the database's server has used.

    What is shipped stays in the store, and is newer than all that was there.
    """
    for size in SIZES:
        first, *others = islice(_batches(_further(store, size * (rounds + 1)), size), rounds + 1)
        _ship(store, first, server_us)
        found = [_ship(store, batch, server_us) for batch in others]
        yield {"batch": size, "requests": others[0].requests} | {
            name: None if None in (each := [row[name] for row in found]) else round(median(each), 2)
            for name in found[0]
        }


def _ship(store: Store, batch: Batch, server_us: Callable[[], float | None]) -> dict[str, Any]:
    """Store a batch; return what that took, the CPU time a record."""
    count = len(batch.records)
    server, cpu, began = server_us(), time.process_time(), time.perf_counter()
    store.apply(batch.records)
    elapsed, spent, server_after = time.perf_counter() - began, time.process_time() - cpu, server_us()
    return {
        "records_a_second": count / elapsed,
        "cpu_us_a_record": spent * 1e6 / count,
        "cpu_us_a_request": spent * 1e6 / batch.requests,
        "server_us_a_record": None if server is None or server_after is None else (server_after - server) / count,
    }


def _further(store: Store, records: int) -> Scale:
    """Return what there is to come with so many records, of the same users."""
    count = store.count_interceptions(ALL)
    begins_us = rows.END_US + count * rows.SECOND_US
    return Scale(records // LEAST_RECORDS, seed=count, begins_us=begins_us, ends_us=begins_us + HOUR_US)


def _batches(scale: Scale, size: int) -> Iterator[Batch]:
    """Yield batches of requests in the order of their beginnings."""
    requests = [request for made in rows.batches(scale) for request in _requests(made)]
    waiting, count = list[AnyRecord](), 0
    for request in sorted(requests, key=lambda records: records[0].started_at):
        waiting += request
        count += 1
        if len(waiting) >= size:
            yield Batch(count, waiting)
            waiting, count = [], 0


def _requests(made: Rows) -> Iterator[list[Any]]:
    """Yield the records of each request, its beginning first."""
    children: dict[str, list[AnyRecord]] = defaultdict(list)
    for table, kind in CHILDREN.items():
        for row in made[table]:
            children[row["interception_id"]].append(_record(kind, row | ({"extra": {}} if kind is TokenUsage else {})))
    for row in made[schema.interceptions]:
        end = _record(InterceptionEnd, row | {"interception_id": row["id"], "credential_hint": None})
        yield [_record(Interception, row), *children[row["id"]], end]


def _record(kind: type[R], row: dict[str, Any]) -> R:
    return kind(**{name: row[name] for name in kind.__struct_fields__ if name in row})
