"""Reading records: as one list, in pages, and as they end."""

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

import samples
from bridgeserver.errors import StoreError
from bridgeserver.store import Store, shipping
from bridgeserver.store.queries.filters import Filters
from bridgeserver.store.queries.interceptions import End


@pytest.fixture
def store(empty_store: Store) -> Store:
    """An empty store of either engine."""
    return empty_store


def ids(records: Iterator[dict[str, Any]]) -> list[str]:
    """Return the ids of records."""
    return [record["id"] for record in records]


@contextmanager
def selects() -> Generator[list[tuple[str, Any]]]:
    """Collect the queries that are made, with their parameters."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith(("SELECT", "WITH")):
            seen.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def explain(store: Store, statement: str, parameters: Any) -> list[str]:
    """Return the steps in which the database would answer a query, if its tables were large."""

    def run(connection: Connection) -> list[str]:
        if connection.dialect.name == "sqlite":
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            return [row[3] for row in rows]
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
        return [row[0].strip() for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)]

    return samples.database(store).write(run)


def whole_reads(plan: list[str]) -> list[str]:
    """Return the steps of a plan that read every row of a table or an index."""
    scans = [step for step in plan if (step.startswith("SCAN") and "CONSTANT" not in step) or "Seq Scan on" in step]
    return scans + [step for step, below in pairwise([*plan, ""]) if " using " in step and "Index Cond" not in below]


def test_a_record_begins_with_these_fields(store: Store) -> None:
    """What `records --json` has promised, with the sums over two responses and its tools in order; more may follow."""
    store.create_key("alice", "", is_admin=False, actor="test")
    (user,) = store.list_users()
    store.apply(
        [
            samples.interception(user_id=user.id, started_at=1_790_000_000_000_007),
            samples.prompt(),
            samples.tool(seq=11, name="second"),
            samples.tool(seq=3, name="first"),
            samples.usage(seq=2, tokens=(1, 2, 3, 4)),
            samples.usage(seq=12, tokens=(10, 20, 30, 40)),
            samples.end(ended_at=1_790_000_001_000_000),
        ],
    )
    tool = {"server": "wiki", "injected": True, "error": "no such page"}
    (record,) = store.records()
    assert list(record.items())[:19] == list(
        {
            "id": "i0001",
            "user": "alice",
            "provider": "openai",
            "provider_name": "main",
            "model": "m",
            "client": "Codex",
            "session_id": "s",
            "started_at": "2026-09-21T14:13:20.000007Z",
            "ended_at": "2026-09-21T14:13:21.000000Z",
            "status": "completed",
            "http_status": 200,
            "streaming": True,
            "input_tokens": 11,
            "output_tokens": 22,
            "cache_read_tokens": 33,
            "cache_write_tokens": 44,
            "prompt": "hello",
            "tools": [{"name": "first"} | tool, {"name": "second"} | tool],
            "error_type": None,
        }.items()
    )


def test_an_open_record_has_what_is_known(store: Store) -> None:
    """Without an end, a prompt, usage or tools there are zeros and nothing; an unknown user is shown by id."""
    store.apply([samples.interception()])
    (record,) = store.records()
    shown = ("user", "status", "ended_at", "http_status", "prompt", "tools", "input_tokens", "error_type")
    assert [record[name] for name in shown] == ["u", "open", None, None, None, [], 0, None]


def test_sums_may_exceed_64_bits(store: Store) -> None:
    """Absurd counts do not fail the listing, whoever wrote them."""
    largest = 2**63 - 1
    store.apply([samples.interception(), samples.usage(seq=1), samples.usage(seq=2)])
    samples.query(store, "UPDATE token_usages SET input_tokens = :largest", largest=largest)
    assert [record["input_tokens"] for record in store.records()] == [2 * largest]


def test_records_come_by_their_beginning(store: Store) -> None:
    """The order is that of the start, then of the id, not that of arrival."""
    starts = {1: 30, 2: 10, 3: 20, 4: 10}
    store.apply([samples.interception(number, started_at=at) for number, at in starts.items()])
    assert ids(store.records()) == ["i0002", "i0004", "i0003", "i0001"]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_pages_leave_nothing_out(store: Store, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """However the records fall into pages, each comes once, with its own children."""
    monkeypatch.setattr("bridgeserver.store.database.PAGE_ROWS", 3)
    for number in range(1, count + 1):
        # All start together, so that a page ends between records of one instant.
        store.apply([samples.interception(number, started_at=7), samples.prompt(number, text=f"prompt {number}")])
    found = [(record["id"], record["prompt"]) for record in store.records()]
    assert found == [(f"i{number:04d}", f"prompt {number}") for number in range(1, count + 1)]


def test_a_page_takes_five_statements(store: Store) -> None:
    """The work of a page does not grow with its rows."""
    store.apply([record for number in range(1, 51) for record in samples.whole(number)])
    with selects() as seen:
        assert len(list(store.records())) == 50
    assert len(seen) == 5


@pytest.mark.parametrize(("limit", "count"), [(0, 0), (1, 1), (3, 3), (4, 4), (6, 5)])
def test_a_limit_counts_records(store: Store, monkeypatch: pytest.MonkeyPatch, limit: int, count: int) -> None:
    """A limit holds within a page, at its edge, and beyond the end."""
    monkeypatch.setattr("bridgeserver.store.database.PAGE_ROWS", 3)
    store.apply([samples.interception(number) for number in range(1, 6)])
    assert ids(store.records(limit=limit)) == [f"i{number:04d}" for number in range(1, count + 1)]


def test_going_on_after_a_record(store: Store) -> None:
    """The id of the last record is enough to go on."""
    store.apply([samples.interception(number) for number in (1, 2, 3)])
    assert ids(store.records(after="i0002")) == ["i0003"]
    with pytest.raises(StoreError, match="i9999"):
        list(store.records(after="i9999"))


def test_records_of_one_user(store: Store) -> None:
    """A name chooses that user's records, and a name that nobody has chooses none."""
    for name in ("alice", "bob"):
        store.create_key(name, "", is_admin=False, actor="test")
    alice, bob = store.list_users()
    store.apply([samples.interception(1, user_id=alice.id), samples.interception(2, user_id=bob.id)])
    assert ids(store.records(Filters(user="bob"))) == ["i0002"]
    assert ids(store.records(Filters(user="carol"))) == []


def test_listing_uses_indexes(store: Store) -> None:
    """No listing reads or sorts a whole table."""
    store.create_key("alice", "", is_admin=False, actor="test")
    (alice,) = store.list_users()
    store.apply([*samples.whole(1), *samples.whole(2), samples.interception(3, user_id=alice.id)])
    listings: dict[str, Callable[[], object]] = {
        "ix_interceptions_started": lambda: list(store.records(after="i0001")),
        "ix_interceptions_user": lambda: list(store.records(Filters(user="alice"))),
        "ix_interceptions_ended": lambda: list(store.ended_after(End(0, 0, ""))),
        "ix_interceptions_open": lambda: samples.database(store).read(shipping.open_workers),
    }
    for index, listing in listings.items():
        with selects() as seen:
            listing()
        plans = [explain(store, *statement) for statement in seen]
        assert any(re.search(rf"\b(INDEX|using) {index}\b", step) for plan in plans for step in plan), plans
        for plan in plans:
            assert [step for step in plan if "TEMP B-TREE" in step] == []
            assert [step for step in plan if step.startswith("SCAN") and "USING" not in step] == []
            assert [step for step in plan if "Seq Scan on interceptions" in step] == []


def test_following_yields_each_end_once(store: Store) -> None:
    """What ended before the cursor is passed over, what ends after it comes once, open ones not at all."""
    store.apply(samples.whole(1))
    cursor = store.end_cursor()
    assert list(store.ended_after(cursor)) == []
    store.apply([*samples.whole(2), samples.interception(3)])
    ((cursor, record),) = store.ended_after(cursor)
    assert (record["id"], record["prompt"]) == ("i0002", "hello")
    store.apply(samples.whole(2))
    assert list(store.ended_after(cursor)) == []


def test_following_misses_no_late_record(store: Store) -> None:
    """A record that ended earlier and was shipped later than another still comes."""
    cursor = store.end_cursor()
    store.apply([samples.interception(1), samples.end(1, ended_at=9_000_000)])
    ((cursor, _record),) = store.ended_after(cursor)
    store.apply([samples.interception(2), samples.end(2, ended_at=1_500_000)])
    assert [record["id"] for _cursor, record in store.ended_after(cursor)] == ["i0002"]


def test_following_orders_a_batch_by_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends that were stored together come by `(ended_at, id)`, across pages, from any of them on."""
    monkeypatch.setattr("bridgeserver.store.database.PAGE_ROWS", 2)
    cursor = store.end_cursor()
    times = {1: 2_000_003, 2: 2_000_001, 3: 2_000_002, 4: 2_000_001}
    store.apply([samples.interception(number) for number in times])
    store.apply([samples.end(number, ended_at=at) for number, at in times.items()])
    followed = list(store.ended_after(cursor))
    assert [record["id"] for _cursor, record in followed] == ["i0002", "i0004", "i0003", "i0001"]
    assert list(store.ended_after(followed[0][0])) == followed[1:]


def test_following_shows_interruptions(store: Store) -> None:
    """An interruption is an end like others."""
    cursor = store.end_cursor()
    store.apply([samples.interception()])
    store.end_worker("w", 3_000_000)
    assert [record["status"] for _cursor, record in store.ended_after(cursor)] == ["interrupted"]
