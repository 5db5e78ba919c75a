"""Sessions, threads, distinct values and usage, as the store finds them."""

import itertools
import re
from collections.abc import Callable

import pytest
from msgspec.structs import replace

import samples
from bridgeserver.errors import InvalidMembers, NotFound
from bridgeserver.store import Store
from bridgeserver.store.queries import filters, sessions, threads
from bridgeserver.store.queries.filters import Filters
from bridgeserver.store.views import Sessions
from querylab import DAY, NOW, SECOND, fill, request
from test_store_records import explain, selects

FIRST = sessions.Page(100)
WHOLE = threads.Page(50)


@pytest.fixture
def store(emptied_store: Store) -> Store:
    """An empty store of either engine."""
    return emptied_store


def keys(page: Sessions) -> list[tuple[str, str]]:
    """Return the user and the id of each session."""
    return [(session.initiator.id, session.id) for session in page.sessions]


def test_a_session_is_what_one_user_did_in_it(store: Store) -> None:
    """Its row has the sums of its interceptions, its threads, and the beginning of its last prompt."""
    fill(
        store,
        request(1, session_id="s", model="b", provider_name="one", tokens=1),
        request(2, session_id="s", model="a", provider_name="two", tokens=10),
        request(3, session_id="s", model="a", provider_name="two", tokens=100),
        request(4, session_id="s", user_id="u2", tokens=1000),
        roots={2: 1},
        costs={1: 5, 3: 70},
    )
    others, session = store.newest_sessions(Filters(), FIRST).sessions
    assert others.initiator.id == "u2"
    assert (session.providers, session.models, session.client) == (["one", "two"], ["a", "b"], "Codex")
    assert (session.started_at, session.ended_at) == ("2026-09-21T14:13:21.000000Z", "2026-09-21T14:13:24.000000Z")
    assert (session.last_active_at, session.last_prompt) == ("2026-09-21T14:13:23.000000Z", "prompt 3")
    assert session.threads == 2
    used = session.token_usage_summary
    assert (used.input_tokens, used.output_tokens) == (111, 222)
    assert (used.cache_read_tokens, used.cache_write_tokens) == (333, 444)
    assert (session.cost_micros, session.unpriced) == (75, 1)


def test_a_session_runs_while_one_of_its_requests_does(store: Store) -> None:
    """Then it has no end, and without a prompt its activity is its beginning."""
    fill(store, request(1, session_id="s"), [replace(samples.interception(2), user_id="u1", started_at=NOW)])
    (session,) = store.newest_sessions(Filters(), FIRST).sessions
    assert (session.ended_at, session.started_at) == (None, "2026-09-21T14:13:20.000000Z")
    fill(store, [replace(samples.interception(3), session_id="bare", user_id="u2", started_at=NOW)])
    bare = store.newest_sessions(Filters(user="u2"), FIRST).sessions[0]
    assert (bare.last_active_at, bare.last_prompt, bare.cost_micros) == ("2026-09-21T14:13:20.000000Z", None, 0)


def test_pages_of_sessions_leave_nothing_out(store: Store) -> None:
    """Each session comes once, also where several were active at one moment and two users have one id."""
    fill(
        store,
        *(request(number, session_id=f"s{number % 3}", user_id=f"u{number % 5}", at=NOW) for number in range(1, 16)),
    )
    whole = store.newest_sessions(Filters(), FIRST)
    assert (whole.count, len(whole.sessions), whole.next) == (15, 15, None)
    for size in (1, 4, 14, 15):
        found, cursor = list[tuple[str, str]](), None
        for _ in range(16):
            page = store.newest_sessions(Filters(), sessions.Page(size, after=cursor))
            found += keys(page)
            if (cursor := page.next) is None:
                break
        assert found == keys(whole)
    assert keys(store.newest_sessions(Filters(), sessions.Page(3, offset=4))) == keys(whole)[4:7]


def test_a_cursor_is_a_session_that_may_be_seen(store: Store) -> None:
    """An id will do where one user has it; what nobody has, or another user, is no cursor."""
    fill(store, request(1, session_id="s"), request(2, session_id="s", user_id="u2"), request(3, session_id="a:b"))
    ambiguous = sessions.Page(9, after="s")
    with pytest.raises(InvalidMembers, match="after_session_id: found 's', which several users have"):
        store.newest_sessions(Filters(), ambiguous)
    assert keys(store.newest_sessions(Filters(owner="u1"), ambiguous)) == []
    assert keys(store.newest_sessions(Filters(), sessions.Page(9, after="a:b"))) == [("u2", "s"), ("u1", "s")]
    for cursor in ("none", "u1:none", "u2:s"):
        with pytest.raises(InvalidMembers, match=f"after_session_id: found '{cursor}', which is no session"):
            store.newest_sessions(Filters(owner="u1"), sessions.Page(9, after=cursor))


@pytest.mark.parametrize("limit", [0, 1000])
def test_filters_find_sessions_with_such_a_request(store: Store, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """One request of it must be as all filters say; it does not matter how many rows a filter matches."""
    monkeypatch.setattr(filters, "RARE_ROWS", limit)
    store.create_key("alice", "", is_admin=False, actor="test")
    (alice,) = store.list_users()
    fill(
        store,
        request(1, session_id="s1", model="a", client="Zed", user_id=alice.id),
        request(2, session_id="s1", model="b", provider_name="other", user_id=alice.id),
        request(3, session_id="s2", model="b", client="Zed", provider="anthropic"),
    )
    expected = {
        Filters(): ["s2", "s1"],
        Filters(user="alice"): ["s1"],
        Filters(user=alice.id): ["s1"],
        Filters(user="nobody"): [],
        Filters(user="alice", owner="u1"): [],
        Filters(model="a"): ["s1"],
        Filters(model="b"): ["s2", "s1"],
        Filters(model="b", client="Zed"): ["s2"],
        Filters(model="b", owner=alice.id): ["s1"],
        Filters(model="b", client="Zed", owner=alice.id): [],
        Filters(model="a", provider="other"): [],
        Filters(provider="other"): ["s1"],
        Filters(provider_type="anthropic"): ["s2"],
        Filters(session_id="s1"): ["s1"],
        Filters(session_id="s1", owner="u1"): [],
        Filters(status="completed", model="none"): [],
        Filters(started_after=NOW + 3 * SECOND): ["s2"],
        Filters(started_before=NOW + 3 * SECOND): ["s1"],
    }
    for wanted, found in expected.items():
        page = store.newest_sessions(wanted, FIRST)
        assert [session.id for session in page.sessions] == found, wanted
        assert page.count == len(found)


@pytest.mark.parametrize("limit", [0, 1000])
def test_filters_find_interceptions(store: Store, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Those that are as all filters say; a session is found by the id that it goes by."""
    monkeypatch.setattr(filters, "RARE_ROWS", limit)
    fill(
        store,
        request(1, model="a"),
        request(2, model="b"),
        request(3, model="a", session_id="s", user_id="u2"),
        [replace(samples.interception(4), started_at=NOW + 4 * SECOND, session_id="i0001")],
        roots={2: 1},
    )
    expected = {
        Filters(): [4, 3, 2, 1],
        Filters(model="a"): [3, 1],
        Filters(model="a", owner="u1"): [1],
        Filters(status="open"): [4],
        Filters(status="completed"): [3, 2, 1],
        Filters(session_id="s"): [3],
        Filters(session_id="i0001"): [4, 2, 1],
        Filters(session_id="i0001", user="u1"): [2, 1],
        Filters(session_id="i0002"): [],
        Filters(started_after=NOW + 2 * SECOND, started_before=NOW + 4 * SECOND): [3, 2],
    }
    for wanted, found in expected.items():
        page = store.newest_interceptions(wanted, None, 100)
        assert [record.id for record in page.interceptions] == [f"i{number:04d}" for number in found], wanted
        assert store.count_interceptions(wanted) == len(found)


def test_pages_of_interceptions_leave_nothing_out(store: Store) -> None:
    """The newest comes first, equal times by their ids, each once; a stranger's id is no cursor."""
    fill(store, *(request(number, at=NOW + number // 3) for number in range(1, 8)), request(8, user_id="u2"))
    found, cursor = list[str](), None
    for _ in range(9):
        page = store.newest_interceptions(Filters(), cursor, 2)
        found += [record.id for record in page.interceptions]
        if (cursor := page.next) is None:
            break
    assert found == [f"i{number:04d}" for number in range(8, 0, -1)]
    for cursor in ("i0008", "none"):
        with pytest.raises(InvalidMembers, match=f"after: found '{cursor}'"):
            store.newest_interceptions(Filters(owner="u1"), cursor, 2)


def test_long_texts_make_a_page_shorter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page holds only so many characters, and its cursor goes on from there; so do the records."""
    monkeypatch.setattr("bridgeserver.store.queries.interceptions.PIECE_ROWS", 2)
    monkeypatch.setattr("bridgeserver.store.queries.interceptions.PAGE_CHARACTERS", 10)
    fill(store, *(request(number) for number in range(1, 6)))
    page = store.newest_interceptions(Filters(), None, 100)
    assert ([record.id for record in page.interceptions], page.next) == (["i0005", "i0004"], "i0004")
    assert len(list(store.records())) == 5


def test_one_interception_is_its_owners(store: Store) -> None:
    """With all that belongs to it; for another user it is not there."""
    fill(store, request(1, tokens=5), request(2), roots={2: 1}, costs={1: 7})
    first, second = (store.find_interception(f"i000{number}", "u1") for number in (1, 2))
    assert (first.thread_id, first.thread_parent_id, first.session_key) == ("i0001", None, "i0001")
    assert (second.thread_id, second.thread_parent_id, second.session_key) == ("i0001", "i0001", "i0001")
    assert (first.cost_micros, first.unpriced, second.cost_micros, second.unpriced) == (7, 0, None, 1)
    assert [(found.response_id, found.input_tokens, found.cost_micros) for found in first.responses] == [("r", 5, 7)]
    assert [(call.tool_call_id, call.arguments) for call in first.tool_calls] == [("c", "{}")]
    assert [thought.text for thought in first.thoughts] == ["hm"]
    for owner, id_ in (("u2", "i0001"), ("u1", "i0009"), (None, "i0009")):
        with pytest.raises(NotFound, match="Interception not found"):
            store.find_interception(id_, owner)


def test_threads_of_a_session(store: Store) -> None:
    """Each has its first prompt, its sums, how its last request ended, and an action a request."""
    fill(
        store,
        request(1, session_id="s", tokens=1),
        request(2, session_id="s", model="b", tokens=10),
        request(3, session_id="s", tokens=100),
        roots={3: 1},
        costs={1: 5, 3: 6},
    )
    found = store.find_session("s", Filters(), WHOLE)
    assert (found.session.id, found.session.threads, found.previous, found.next) == ("s", 2, None, None)
    first, second = found.threads
    assert (first.id, first.prompt, first.model, second.id, second.model) == ("i0001", "prompt 1", "m", "i0002", "b")
    assert (first.started_at[17:19], (first.ended_at or "")[17:19]) == ("21", "24")
    assert (first.token_usage.input_tokens, first.cost_micros, first.unpriced) == (101, 11, 0)
    assert (second.cost_micros, second.unpriced) == (0, 1)
    assert [action.interception_id for action in first.agentic_actions] == ["i0001", "i0003"]
    action = first.agentic_actions[1]
    assert (action.token_usage.output_tokens, action.tool_calls[0].name, action.thinking[0].text) == (
        200,
        "look_up",
        "hm",
    )


def test_pages_of_threads(store: Store) -> None:
    """They go both ways, and a cursor must be a thread of that session."""
    fill(store, *(request(number, session_id="s") for number in range(1, 6)), request(6, session_id="other"))

    def page(limit: int, **cursor: str) -> tuple[str, str | None, str | None]:
        found = store.find_session("s", Filters(), threads.Page(limit, **cursor))
        return "".join(thread.id[-1] for thread in found.threads), found.previous, found.next

    assert page(2) == ("12", None, "i0002")
    assert page(2, after_id="i0002") == ("34", "i0003", "i0004")
    assert page(9, after_id="i0003") == ("45", "i0004", None)
    assert page(9, after_id="i0005") == ("", None, None)
    assert page(2, before_id="i0004") == ("23", "i0002", "i0003")
    assert page(9, before_id="i0003") == ("12", None, "i0002")
    for member, cursor in itertools.product(("after_id", "before_id"), ("i0006", "none")):
        with pytest.raises(InvalidMembers, match=f"{member}: found '{cursor}'"):
            page(2, **{member: cursor})


def test_a_session_id_of_several_users(store: Store) -> None:
    """It is the owner's, or the asked for user's, or else the one that was active last."""
    fill(store, request(1, session_id="s"), request(2, session_id="s", user_id="u2"))
    shown = {
        Filters(): "u2",
        Filters(user="u1"): "u1",
        Filters(owner="u1"): "u1",
    }
    for wanted, user in shown.items():
        assert store.find_session("s", wanted, WHOLE).session.initiator.id == user
    for wanted in (Filters(owner="u3"), Filters(owner="u1", user="u2"), Filters(user="u3")):
        with pytest.raises(NotFound, match="Session not found"):
            store.find_session("s", wanted, WHOLE)


def test_distinct_values(store: Store) -> None:
    """Each value once, in order, from a prefix, as many as asked for, and only a user's own."""
    for name in ("bob", "alice"):
        store.create_key(name, "", is_admin=False, actor="test")
    alice, bob = store.list_users()
    names = ["gpt-5", "gpt-4", "claude", "gpt-5", "%"]
    fill(
        store,
        *(
            request(number, model=model, user_id=(alice if number < 3 else bob).id, client=f"c{number}")
            for number, model in enumerate(names)
        ),
    )
    everybody = Filters()
    assert store.models(everybody, "", 100) == ["%", "claude", "gpt-4", "gpt-5"]
    assert store.models(everybody, "gpt-", 1) == ["gpt-4"]
    assert store.models(everybody, "%", 100) == ["%"]
    assert store.models(Filters(owner=alice.id), "", 100) == ["claude", "gpt-4", "gpt-5"]
    assert store.models(Filters(owner=alice.id, user="bob"), "", 100) == []
    assert store.clients(Filters(user="bob"), "c", 100) == ["c3", "c4"]
    assert [user.username for user in store.initiators(everybody, "", 100)] == ["alice", "bob"]
    assert [user.username for user in store.initiators(Filters(owner=bob.id), "", 100)] == ["bob"]
    assert [user.id for user in store.initiators(everybody, "al", 100)] == [alice.id]


def test_no_values_in_an_empty_store(store: Store) -> None:
    """Nothing was asked for, so there is nothing."""
    assert store.models(Filters(), "", 100) == store.clients(Filters(), "", 100) == []
    assert store.usage(("model",), Filters(), limit=10) == store.usage((), Filters(), limit=10) == []


def test_usage_by_group(store: Store) -> None:
    """Rows are sorted by their groups, and hold the sums of their requests; days are those of UTC."""
    store.create_key("alice", "", is_admin=False, actor="test")
    (alice,) = store.list_users()
    midnight = NOW - NOW % DAY
    fill(
        store,
        request(1, at=midnight - 1, model="b", user_id=alice.id, tokens=1),
        request(2, at=midnight, model="a", user_id=alice.id, tokens=10),
        request(3, at=midnight + 1, model="a", tokens=100),
        [replace(samples.interception(4), started_at=midnight + 2, model="a")],
        costs={1: 3, 2: 4},
    )
    rows = [row for _place, row in store.usage(("day", "user", "model"), Filters(), limit=100)]
    shown = [(row.day, row.user, row.model, row.requests, row.input_tokens, row.cost_micros) for row in rows]
    assert sorted(shown, key=str) == [
        ("2026-09-20", "alice", "b", 1, 1, 3),
        ("2026-09-21", "alice", "a", 1, 10, 4),
        ("2026-09-21", "u", "a", 1, 0, 0),
        ("2026-09-21", "u1", "a", 1, 100, 0),
    ]
    ((_place, row),) = store.usage((), Filters(), limit=100)
    assert (row.requests, row.input_tokens, row.cost_micros, row.unpriced_requests) == (4, 111, 7, 1)
    ((_place, row),) = store.usage(("provider",), Filters(model="a", user="alice"), limit=100)
    assert (row.provider, row.provider_name, row.cache_write_tokens) == ("openai", "main", 40)


def test_pages_of_usage_leave_nothing_out(store: Store) -> None:
    """A page goes on after the place of the last row, whatever the groups are."""
    fill(store, *(request(number, model=f"m{number % 5}", client=f"c{number % 2}") for number in range(20)))
    whole = store.usage(("client", "model"), Filters(), limit=100)
    assert len(whole) == 10
    found, place = list[object](), None
    while page := store.usage(("client", "model"), Filters(), after=place, limit=3):
        found += page
        place = page[-1][0]
    assert found == whole


def test_models_without_a_price(store: Store) -> None:
    """They are listed with the requests and tokens of which nobody knows what they cost."""
    fill(store, request(1, model="a"), request(2, model="a", tokens=5), request(3, model="b"), costs={1: 3, 3: 4})
    (row,) = store.unpriced(Filters(), 100)
    assert (row.provider_name, row.model, row.requests, row.input_tokens) == ("main", "a", 1, 5)


def test_sums_do_not_overflow(store: Store) -> None:
    """A provider's absurd counts make absurd sums, and no failure; small ones beside them are not lost."""
    most = 2**63 - 1
    fill(store, *(request(number, session_id="s") for number in (1, 2, 3)))
    store.apply([samples.usage(number, seq=9) for number in (1, 2)])
    samples.query(store, "UPDATE token_usages SET input_tokens = :most, output_tokens = :most WHERE seq = 9", most=most)
    ((_place, row),) = store.usage(("model",), Filters(), limit=10)
    assert (row.input_tokens, row.output_tokens) == (2 * most + 3, 2 * most + 6)
    (session,) = store.newest_sessions(Filters(), FIRST).sessions
    assert session.token_usage_summary.input_tokens == 2 * most + 3


def test_the_answers_come_by_indexes(store: Store) -> None:
    """No page is found by reading a whole table, and what belongs to it by keys alone."""
    fill(store, *(request(number, session_id=f"s{number % 4}", user_id=f"u{number % 2}") for number in range(20)))
    last = store.newest_sessions(Filters(), sessions.Page(1)).next
    questions: dict[str, Callable[[], object]] = {
        "ix_sessions_active": lambda: store.newest_sessions(Filters(), sessions.Page(2, after=last)),
        "ix_sessions_user_active": lambda: store.newest_sessions(Filters(owner="u1"), sessions.Page(2)),
        "ix_interceptions_session_key": lambda: store.find_session("s1", Filters(), WHOLE),
        "ix_interceptions_started": lambda: store.newest_interceptions(Filters(), "i0009", 2),
        "ix_interceptions_model": lambda: store.models(Filters(owner="u1"), "", 100),
        "ix_interceptions_client": lambda: store.newest_sessions(Filters(client="Zed"), FIRST),
    }
    for index, ask in questions.items():
        with selects() as seen:
            ask()
        plans = [explain(store, *statement) for statement in seen]
        assert any(re.search(rf"\b(INDEX|using) {index}\b", step) for plan in plans for step in plan), index
        for table in samples.TABLES:
            bare = re.compile(rf"SCAN {table}\b(?!.*INDEX)|Seq Scan on {table}\b")
            assert [step for plan in plans for step in plan if bare.search(step)] == [], index


def test_a_page_of_sessions_takes_six_statements(store: Store) -> None:
    """What belongs to the sessions of a page is read for all of them at once."""
    fill(store, *(request(number, session_id=f"s{number}") for number in range(50)))
    with selects() as seen:
        assert len(store.newest_sessions(Filters(), FIRST).sessions) == 50
    assert len(seen) == 6
