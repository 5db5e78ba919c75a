"""Shipping: records become rows, once, however often and in whatever pieces they come."""

import traceback

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import samples
from bridgeserver.errors import StoreError
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
from bridgeserver.store import Store, bulk
from bridgeserver.store.schema import metadata


@pytest.fixture
def store(emptied_store: Store) -> Store:
    """An empty store of either engine."""
    return emptied_store


@pytest.fixture
def is_sqlite(store: Store) -> bool:
    """Whether the store is a file."""
    return store.url.startswith("sqlite:")


TABLES: dict[type[AnyRecord], str] = {
    Interception: "interceptions",
    UserPrompt: "user_prompts",
    TokenUsage: "token_usages",
    ToolUse: "tool_usages",
    ModelThought: "model_thoughts",
    ProviderObject: "provider_objects",
    ContinuedResponse: "continued_responses",
}


@pytest.mark.parametrize("kind", TABLES)
def test_columns_stand_in_the_order_of_fields(kind: type[AnyRecord]) -> None:
    """A record's fields can be stored by position."""
    columns = list(metadata.tables[TABLES[kind]].columns.keys())
    assert columns[: len(kind.__struct_fields__)] == list(kind.__struct_fields__)


def test_ends_stand_in_the_order_of_fields() -> None:
    """An end's fields can be stored by position."""
    columns = list(metadata.tables["interceptions"].columns.keys())
    *fields, last = InterceptionEnd.__struct_fields__[1:]
    assert last == "credential_hint", "which replaces that of the beginning"
    fields.append("end_batch")
    first = columns.index(fields[0])
    assert columns[first : first + len(fields)] == fields


def test_every_field_is_stored(store: Store) -> None:
    """What was recorded stands in the tables, field by field."""
    records = [*samples.whole(), samples.provider_object(), samples.continued_response()]
    assert store.apply(records) == len(records)
    found = samples.tables(store)
    for record in records:
        fields = msgspec.structs.asdict(record)
        if isinstance(record, InterceptionEnd):
            row = found["interceptions"][0]
            del fields["interception_id"], fields["credential_hint"]
        else:
            (row,) = found[TABLES[type(record)]]
        if isinstance(record, TokenUsage):
            fields["extra"] = '{"reasoning":7}'
        assert {name: row[name] for name in fields} == fields


def test_nothing_is_stored_twice(store: Store) -> None:
    """Applying the same again changes nothing and counts nothing."""
    records = [*samples.whole(), samples.provider_object(), samples.continued_response()]
    store.apply(records)
    before = samples.tables(store)
    assert store.apply(records) == 0
    assert samples.tables(store) == before


def test_only_new_records_are_counted(store: Store) -> None:
    """Of a batch that is partly known the rest is stored and counted."""
    store.apply([samples.interception(1), samples.prompt(1)])
    assert store.apply([samples.interception(1), samples.interception(2), samples.prompt(1), samples.prompt(2)]) == 2


def test_no_records_are_no_work(store: Store) -> None:
    """An empty batch is allowed."""
    assert store.apply([]) == 0


def test_the_first_record_of_an_id_stays(store: Store) -> None:
    """A later record of the same id does not replace the first."""
    store.apply([samples.provider_object("resp_1", "first")])
    store.apply([samples.provider_object("resp_1", "second")])
    assert [row["user_id"] for row in samples.tables(store)["provider_objects"]] == ["first"]


@pytest.mark.parametrize("together", [True, False])
def test_the_first_end_wins(store: Store, *, together: bool) -> None:
    """Of two ends the first stays, in one batch and in two."""
    ends = [samples.end(http_status=200), samples.end(http_status=500)]
    store.apply([samples.interception()])
    changed = [store.apply(ends)] if together else [store.apply([end]) for end in ends]
    assert sum(changed) == 1
    assert samples.tables(store)["interceptions"][0]["http_status"] == 200


def test_the_order_within_a_batch_does_not_matter(store: Store) -> None:
    """An end may stand before its interception if both come at once."""
    store.apply(samples.whole())
    expected = samples.tables(store)
    samples.empty(store)
    store.apply(samples.whole()[::-1])
    assert samples.tables(store) == expected


@pytest.mark.parametrize("known", ["begun", "ended"])
def test_what_is_known_is_completed_by_a_later_batch(store: Store, known: str) -> None:
    """A batch that brings beginning and end again adds what was missing, beside others that are new."""
    before: list[AnyRecord] = [samples.interception(1), samples.end(1)]
    store.apply(before[:1] if known == "begun" else before)
    batch: list[AnyRecord] = [
        samples.interception(1),
        samples.end(1, http_status=500),
        samples.interception(2),
        samples.end(2),
    ]
    assert store.apply(batch) == (3 if known == "begun" else 2)
    first, second = samples.tables(store)["interceptions"]
    assert (first["http_status"], second["http_status"]) == (500 if known == "begun" else 200, 200)
    assert store.orphans("j") == []


def test_children_may_come_at_any_time(store: Store) -> None:
    """What belongs to an interception is kept before it, and after its end."""
    store.apply([samples.prompt()])
    store.apply([samples.interception(), samples.end()])
    assert store.apply([samples.usage()]) == 1
    (record,) = store.records()
    assert (record["prompt"], record["input_tokens"]) == ("hello", 1)


def test_others_may_run_between_the_pieces_of_a_batch(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, is_sqlite: bool
) -> None:
    """The thread steps back after every few rows of SQLite's, and nothing is lost between the pieces of a batch."""
    pauses = list[float]()
    for name in ("PIECE_ROWS", "ARRAY_ROWS"):
        monkeypatch.setattr(bulk, name, 2)
    monkeypatch.setattr("bridgeserver.store.bulk.time.sleep", pauses.append)
    records = [samples.interception(number) for number in range(5)]
    assert store.apply(records) == 5
    assert pauses == ([bulk.BREATH_S] * 4 if is_sqlite else []), "the fourth is that of their one session"
    assert len(list(store.records())) == 5


def test_a_batch_is_stored_whole_or_not_at_all(store: Store) -> None:
    """When one record cannot be stored, none of its batch is."""
    unstorable = msgspec.structs.replace(samples.prompt(), seq=None)
    with pytest.raises(StoreError, match=r"NOT NULL|not-null"):
        store.apply([samples.interception(), unstorable, samples.end()])
    assert samples.tables(store)["interceptions"] == []


def test_a_failure_tells_nothing_of_the_records(store: Store) -> None:
    """What users said stands neither in the message nor in the error behind it."""
    unstorable = msgspec.structs.replace(samples.prompt(text="very private"), seq=None)
    with pytest.raises(StoreError) as caught:
        store.apply([unstorable])
    assert "private" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("together", [True, False], ids=["at-once", "later"])
def test_the_key_that_served_replaces_the_first(store: Store, *, together: bool) -> None:
    """Whether begin and end are stored in one batch or not; an end without a hint leaves the first one."""
    replaced = msgspec.structs.replace(samples.end(1), credential_hint="last")
    records: list[AnyRecord] = [samples.interception(1), replaced, samples.interception(2), samples.end(2)]
    for batch in [records] if together else [records[::2], records[1::2]]:
        store.apply(batch)
    rows = samples.tables(store)["interceptions"]
    assert [row["credential_hint"] for row in rows] == ["last", samples.interception(2).credential_hint]


def test_interrupting_ends_what_one_worker_left_open(store: Store) -> None:
    """Only open interceptions of that worker end, and once."""
    store.apply([samples.interception(1), samples.interception(2), samples.end(1), samples.interception(3, worker="v")])
    assert store.orphans("j") == ["v", "w"]
    assert store.end_worker("w", 3_000_000) == 1
    assert store.end_worker("w", 4_000_000) == 0
    assert store.orphans("j") == ["v"]
    ended, interrupted, still_open = samples.tables(store)["interceptions"]
    assert (ended["status"], still_open["status"], still_open["ended_at"]) == ("completed", "open", None)
    fields = ("status", "error_type", "error_message", "ended_at", "http_status")
    message = "the gateway process ended"
    assert [interrupted[name] for name in fields] == ["interrupted", "gateway_stopped", message, 3_000_000, None]


def test_nothing_ends_before_it_began(store: Store) -> None:
    """An interruption that is dated too early happens at the beginning."""
    store.apply([samples.interception(started_at=5_000_000)])
    store.end_worker("w", 4_000_000)
    assert samples.tables(store)["interceptions"][0]["ended_at"] == 5_000_000


def test_an_end_after_an_interruption_is_too_late(store: Store) -> None:
    """The first end wins here as well."""
    store.apply([samples.interception()])
    store.end_worker("w", 3_000_000)
    assert store.apply([samples.end()]) == 0


@pytest.mark.parametrize(
    "text", ["", "a\0b", "\U0001f600é\u202e\ufffd", "\ufeff", "'; DROP TABLE users; --", "x" * (1 << 20)]
)
def test_any_text_is_kept(store: Store, text: str, *, is_sqlite: bool) -> None:
    """A prompt comes out as it went in, but for the one character that PostgreSQL cannot hold."""
    store.apply([samples.interception(), samples.prompt(text=text)])
    assert [record["prompt"] for record in store.records()] == [text if is_sqlite else text.replace("\0", "\ufffd")]


def test_a_text_without_room_may_stand_anywhere(store: Store) -> None:
    """U+0000 in whichever column keeps no record from being stored, and does not make two of one."""
    nothing = {"provider": "a\0", "model": "\0", "client": "\0b", "session_id": "\0\0"}
    strange = msgspec.structs.replace(samples.interception(), **nothing)
    end = msgspec.structs.replace(samples.end(), error_message="no\0", credential_hint="\0")
    records: list[AnyRecord] = [strange, samples.prompt(), end, samples.provider_object("resp\0")]
    assert (store.apply(records), store.apply(records)) == (4, 0)


@pytest.mark.parametrize("at", [0, 1, 999_999, 1_790_000_000_123_457, 2**53 - 1])
def test_instants_are_exact(store: Store, at: int) -> None:
    """A microsecond is a microsecond, from the epoch to the year 2255."""
    store.apply([samples.interception(started_at=at), samples.end(ended_at=at)])
    (row,) = samples.tables(store)["interceptions"]
    assert (row["started_at"], row["ended_at"]) == (at, at)


@st.composite
def streams(draw: st.DrawFn) -> list[AnyRecord]:
    """A worker's journal: requests that overlap, each in its own order, some ended twice, some not at all."""
    waiting: list[list[AnyRecord]] = []
    for number in range(1, draw(st.integers(1, 4)) + 1):
        middle: list[AnyRecord] = [
            samples.prompt(number),
            samples.usage(number),
            samples.tool(number),
            samples.thought(number),
            samples.provider_object(f"resp_{number}"),
        ]
        ends = [samples.end(number, http_status=200), samples.end(number, http_status=500)]
        count = draw(st.integers(0, len(middle)))
        waiting.append([samples.interception(number), *middle[:count], *ends[: draw(st.integers(0, 2))]])
    stream: list[AnyRecord] = []
    while waiting:
        chosen = draw(st.sampled_from(waiting))
        stream.append(chosen.pop(0))
        waiting = [records for records in waiting if records]
    return stream


def check_deliveries(store: Store, stream: list[AnyRecord], data: st.DataObject) -> None:
    """Store a journal at once, and again in batches that overlap; the tables must be the same."""
    samples.empty(store)
    store.apply(stream)
    expected = samples.tables(store)
    samples.empty(store)
    delivered = changed = 0
    while delivered < len(stream):
        first = data.draw(st.integers(0, delivered), label="first")
        after = data.draw(st.integers(delivered + 1, len(stream)), label="after")
        changed += store.apply(stream[first:after])
        delivered = after
    assert samples.tables(store) == expected
    rows = sum(len(rows) for name, rows in expected.items() if name != "sessions")
    assert changed == rows + sum(row["ended_at"] is not None for row in expected["interceptions"])


@pytest.mark.parametrize("shared_store", ["sqlite"], indirect=True)
@settings(max_examples=60, deadline=None)
@given(stream=streams(), data=st.data())
def test_deliveries_do_not_matter(shared_store: Store, stream: list[AnyRecord], data: st.DataObject) -> None:
    """However a journal is cut into batches, and however often its parts are sent again, the tables are the same."""
    check_deliveries(shared_store, stream, data)


@pytest.mark.parametrize("shared_store", ["postgresql"], indirect=True)
@settings(max_examples=15, deadline=None)
@given(stream=streams(), data=st.data())
def test_nor_do_they_on_postgresql(shared_store: Store, stream: list[AnyRecord], data: st.DataObject) -> None:
    """The same with fewer examples, because each statement goes to a server."""
    check_deliveries(shared_store, stream, data)
