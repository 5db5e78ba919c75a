"""Threads and sessions: what the store makes of tool calls and of who answered them, whatever comes first."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

import samples
from bridgeserver.records import AnyRecord, Interception, ToolUse, UserPrompt
from bridgeserver.store import Store
from gatelab import GateLab, answer
from test_store_records import explain, whole_reads


@pytest.fixture
def store(emptied_store: Store) -> Store:
    """An empty store of either engine."""
    return emptied_store


def begun(
    number: int, *, answers: str | None = None, session: str | None = None, user: str = "u", at: int | None = None
) -> Interception:
    """Return an interception that brings the result of a tool call."""
    made = samples.interception(number, user_id=user, started_at=at)
    return msgspec.structs.replace(made, correlating_tool_call_id=answers, session_id=session)


def call(number: int, call_id: str, *, user: str = "u", seq: int = 3, at: int = 1_000_000) -> ToolUse:
    """Return a tool call of interception *number*."""
    return msgspec.structs.replace(
        samples.tool(number, seq), tool_call_id=call_id, user_id=user, created_at=at, result=None
    )


def prompt(number: int, at: int) -> UserPrompt:
    """Return the prompt of interception *number*."""
    return msgspec.structs.replace(samples.prompt(number), created_at=at)


def apply(store: Store, batches: Sequence[Sequence[AnyRecord]], *, together: bool) -> None:
    """Store batches as they are, or all at once."""
    if together:
        batches = [[record for batch in batches for record in batch]]
    for batch in batches:
        store.apply(batch)


def threads(store: Store) -> dict[str, tuple[str | None, str | None]]:
    """Return parent and root of each interception."""
    rows = samples.tables(store)["interceptions"]
    return {row["id"]: (row["thread_parent_id"], row["thread_root_id"]) for row in rows}


def sessions(store: Store) -> list[tuple[Any, ...]]:
    """Return the rows of the sessions."""
    return [tuple(row.values()) for row in samples.tables(store)["sessions"]]


CHAIN: list[list[AnyRecord]] = [
    [begun(1), prompt(1, 1_000_001), call(1, "a")],
    [begun(2, answers="a"), call(2, "b")],
    [begun(3, answers="b"), call(3, "c")],
    [begun(4, answers="c")],
]
LINKED = {
    "i0001": (None, None),
    "i0002": ("i0001", "i0001"),
    "i0003": ("i0002", "i0001"),
    "i0004": ("i0003", "i0001"),
}


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [2, 0, 3, 1]])
@pytest.mark.parametrize("together", [True, False])
def test_a_chain_is_one_thread(store: Store, order: list[int], *, together: bool) -> None:
    """Parent and root are found forwards, backwards and from the middle, at once and one by one."""
    batches = [CHAIN[at] for at in order]
    apply(store, batches, together=together)
    assert threads(store) == LINKED
    assert sessions(store) == [("u", "i0001", 1_000_001, 1_000_001, 1_000_001)]


def test_storing_a_thread_again_changes_nothing(store: Store) -> None:
    """A journal that is read from its start again leaves threads and sessions as they are."""
    for batch in CHAIN:
        store.apply(batch)
    before = samples.tables(store)
    for batch in (*CHAIN, CHAIN[3], CHAIN[1]):
        assert store.apply(batch) == 0
    assert samples.tables(store) == before


@pytest.mark.parametrize("together", [True, False])
def test_a_call_may_come_after_its_answer_has_begun(store: Store, *, together: bool) -> None:
    """The record of a call that is shipped late links the interception that waits for it."""
    batches: list[list[AnyRecord]] = [[begun(1), begun(2, answers="a")], [call(1, "a")]]
    apply(store, batches, together=together)
    assert threads(store)["i0002"] == ("i0001", "i0001")
    assert [row[1] for row in sessions(store)] == ["i0001"]


def test_users_are_not_linked(store: Store) -> None:
    """An id of another user's call makes nobody a child, whichever comes first."""
    store.apply([begun(1), call(1, "a"), begun(2, answers="a", user="v")])
    store.apply([begun(3, answers="b", user="v"), begun(4, at=1_000_002)])
    store.apply([call(4, "b")])
    assert set(threads(store).values()) == {(None, None)}


def test_a_call_that_claims_another_user_is_not_linked(store: Store) -> None:
    """The interception that made the call must be the user's own, not only the call."""
    store.apply([begun(1, user="v"), call(1, "a", user="u"), begun(2, answers="a")])
    assert threads(store)["i0002"] == (None, None)


def test_calls_of_earlier_journals_are_nobodys(store: Store) -> None:
    """A record without a user, as earlier versions wrote them, links nothing and is kept."""
    assert store.apply([begun(1), msgspec.structs.replace(call(1, "a"), user_id=None), begun(2, answers="a")]) == 3
    assert threads(store)["i0002"] == (None, None)


@pytest.mark.parametrize("together", [True, False])
def test_the_newest_call_wins(store: Store, *, together: bool) -> None:
    """Of several calls with one id the newest counts, of equally new ones that of the later interception."""
    batches: list[list[AnyRecord]] = [
        [begun(1), call(1, "a", at=30), begun(2), call(2, "a", at=20), begun(9, answers="a")],
        [begun(3), call(3, "a", at=30)],
    ]
    apply(store, batches, together=together)
    assert threads(store)["i0009"] == ("i0003", "i0003")
    assert [row[1] for row in sessions(store)] == ["i0001", "i0002", "i0003"]


@pytest.mark.parametrize("together", [True, False])
def test_no_ids_make_a_circle(store: Store, *, together: bool) -> None:
    """Nothing is its own parent, and of two that answer each other the later one is the child."""
    batches: list[list[AnyRecord]] = [
        [begun(1, answers="a"), call(1, "a")],
        [begun(2, answers="c"), call(2, "b")],
        [begun(3, answers="b"), call(3, "c")],
    ]
    apply(store, batches, together=together)
    assert threads(store) == {"i0001": (None, None), "i0002": (None, None), "i0003": ("i0002", "i0002")}


def test_a_session_of_the_client_holds_its_threads(store: Store) -> None:
    """An id from the client wins over the thread; its row has the earliest start and the latest prompt."""
    store.apply(
        [begun(1, session="s", at=500), prompt(1, 600), call(1, "a"), begun(2, session="s", answers="a", at=700)]
    )
    store.apply([begun(3, session="s", at=400)])
    store.apply([begun(4, session="s", at=900), prompt(4, 550)])
    store.apply([begun(5, session="s", user="v", at=300)])
    assert sessions(store) == [("u", "s", 400, 600, 600), ("v", "s", 300, None, 300)]


def test_a_prompt_that_comes_later_counts(store: Store) -> None:
    """A batch may end between an interception and its prompt."""
    store.apply([begun(1, at=500)])
    store.apply([prompt(1, 600)])
    assert sessions(store) == [("u", "i0001", 500, 600, 600)]


def test_what_leaves_a_session_takes_its_prompts_along(store: Store) -> None:
    """The old session is as if what left had never been there; the new one has it."""
    store.apply([begun(1, at=100), prompt(1, 100), call(1, "a", at=110)])
    store.apply([begun(2, answers="a", at=300), prompt(2, 300)])
    assert sessions(store) == [("u", "i0001", 100, 300, 300)]
    store.apply([begun(3, at=200), prompt(3, 200), call(3, "a", at=210)])
    assert sessions(store) == [("u", "i0001", 100, 100, 100), ("u", "i0003", 200, 300, 300)]


def test_threads_sessions_and_purges_read_no_table_whole(store: Store) -> None:
    """Every statement finds its rows by an index: linking, moving between sessions, storing again, and forgetting."""
    seen: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith(("SELECT", "INSERT INTO sessions", "DELETE", "UPDATE")):
            seen[statement] = parameters[0] if isinstance(parameters, list) else parameters

    event.listen(Engine, "before_cursor_execute", note)
    try:
        later: list[AnyRecord] = [begun(5, at=1_000_001), call(5, "a", at=2_000_000)]
        for batch in (*CHAIN, *CHAIN, later):
            store.apply(batch)
        store.purge(1_000_002, 1)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len(seen) > 10
    for statement, parameters in seen.items():
        assert whole_reads(explain(store, statement, parameters)) == [], statement


USERS = st.sampled_from(["u", "v"])
CALLS = st.sampled_from(["a", "b", "c"])


@st.composite
def requests(draw: st.DrawFn) -> list[list[AnyRecord]]:
    """What each of some requests leaves, with ids that meet where they should and where they should not."""
    made: list[list[AnyRecord]] = []
    for number in range(1, draw(st.integers(2, 6)) + 1):
        user, at = draw(USERS), draw(st.integers(1, 5))
        session = draw(st.sampled_from([None, None, "s", "i0001"]))
        records: list[AnyRecord] = [begun(number, answers=draw(st.none() | CALLS), session=session, user=user, at=at)]
        if draw(st.booleans()):
            records.append(prompt(number, draw(st.integers(0, 9))))
        records += [
            call(number, draw(CALLS), user=user, seq=seq, at=draw(st.integers(0, 9)))
            for seq in range(3, 3 + draw(st.integers(0, 2)))
        ]
        made.append(records)
    return made


def expected_threads(records: Sequence[AnyRecord]) -> dict[str, tuple[str | None, str | None]]:
    """Return parents and roots by the words of the rule."""
    rows = {record.id: record for record in records if isinstance(record, Interception)}
    calls = [record for record in records if isinstance(record, ToolUse)]
    parents: dict[str, str | None] = {}
    for row in rows.values():
        made = [
            tool
            for tool in calls
            if tool.tool_call_id == row.correlating_tool_call_id
            and (parent := rows[tool.interception_id]).user_id == row.user_id
            and (parent.started_at, parent.id) < (row.started_at, row.id)
        ]
        newest = max(made, key=lambda tool: (tool.created_at, tool.interception_id), default=None)
        parents[row.id] = None if newest is None else newest.interception_id

    def root(id_: str) -> str:
        above = parents[id_]
        return id_ if above is None else root(above)

    return {id_: (parent, None if parent is None else root(id_)) for id_, parent in parents.items()}


def expected_sessions(store: Store) -> list[tuple[Any, ...]]:
    """Return the sessions by the words of the rule, from the rows of the interceptions and prompts."""
    found = samples.tables(store)
    groups: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
    for row in found["interceptions"]:
        starts, prompts = groups.setdefault((row["user_id"], row["session_key"]), ([], []))
        starts.append(row["started_at"])
        prompts += [each["created_at"] for each in found["user_prompts"] if each["interception_id"] == row["id"]]
    return [
        (*key, min(starts), max(prompts, default=None), max(prompts, default=min(starts)))
        for key, (starts, prompts) in sorted(groups.items())
    ]


def check_order(store: Store, made: list[list[AnyRecord]], data: st.DataObject) -> None:
    """Store requests in some order, in batches, parts of them again; threads and sessions must be by the rules."""
    everything = [record for records in made for record in records]
    samples.empty(store)
    first = data.draw(st.permutations([records[0] for records in made]), label="beginnings")
    rest = data.draw(st.permutations([record for records in made for record in records[1:]]), label="rest")
    order = list[AnyRecord]()
    ready = set[str]()
    # A child comes after its interception, as in a journal, and else anywhere.
    for record in first:
        order.append(record)
        ready.add(record.id if isinstance(record, Interception) else "")
        for child in [child for child in rest if getattr(child, "interception_id", "") in ready]:
            if data.draw(st.booleans()):
                order.append(child)
                rest.remove(child)
    order += rest
    while order:
        size = data.draw(st.integers(1, len(order)), label="size")
        store.apply(order[:size])
        again = data.draw(st.integers(0, size), label="again")
        store.apply(order[:again])
        order = order[size:]
    assert threads(store) == expected_threads(everything)
    assert sessions(store) == expected_sessions(store)
    once = samples.tables(store)
    samples.empty(store)
    store.apply(everything)
    assert samples.tables(store) == once


@pytest.mark.parametrize("shared_store", ["sqlite"], indirect=True)
@settings(max_examples=80, deadline=None)
@given(made=requests(), data=st.data())
def test_the_order_of_arrival_does_not_matter(
    shared_store: Store, made: list[list[AnyRecord]], data: st.DataObject
) -> None:
    """However requests are cut into batches, mixed and sent again, threads and sessions are those of the rules."""
    check_order(shared_store, made, data)


@pytest.mark.parametrize("shared_store", ["postgresql"], indirect=True)
@settings(max_examples=15, deadline=None)
@given(made=requests(), data=st.data())
def test_nor_does_it_on_postgresql(shared_store: Store, made: list[list[AnyRecord]], data: st.DataObject) -> None:
    """The same with fewer examples, because each statement goes to a server."""
    check_order(shared_store, made, data)


def test_a_conversation_through_the_gateway_is_one_session(lab: GateLab, store: Store) -> None:
    """Two requests of a client without session ids, the second with the result of the first one's tool call."""
    call_block: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}
    asked: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "read it"}]}
    usage = {"input_tokens": 1, "output_tokens": 1}
    for content in ([call_block], [{"type": "text", "text": "done"}]):
        reply: dict[str, Any] = {
            "id": "msg",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": content,
            "usage": usage,
        }
        lab.provider.push(answer(json.dumps(reply | {"stop_reason": "end_turn"}).encode()))
        assert lab.ask("/anthropic/v1/messages", asked).status == 200
        store.apply(lab.records())
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "text"}
        asked["messages"] += [{"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
    rows = samples.tables(store)["interceptions"]
    first, second = sorted(rows, key=lambda row: (row["started_at"], row["id"]))
    assert second["thread_parent_id"] == second["thread_root_id"] == second["session_key"] == first["session_key"]
    assert [row[1] for row in sessions(store)] == [first["id"]]
