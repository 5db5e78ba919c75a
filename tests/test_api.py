"""The answers of the query API: who sees what, what may be asked, and what an export holds."""

import csv
import io
import json
from typing import Any, NamedTuple

import msgspec
import pytest
from openapi_spec_validator import validate

import samples
from bridgeserver import asks
from bridgeserver.admin import Admin
from bridgeserver.api import exports, openapi
from bridgeserver.api.parameters import INSTANTS
from bridgeserver.api.queries import Queries
from bridgeserver.api.routes import OPERATIONS, ROOT, Operation
from bridgeserver.asks import Answer, Ask
from bridgeserver.sealing import Vault
from bridgeserver.status import ShippingStatus
from bridgeserver.store import Store
from querylab import DAY, NOW, SECOND, fill, request
from test_admin import FakeReloader

MIDNIGHT = NOW - NOW % DAY
PERIOD = "from=2026-09-01T00:00:00Z&to=2026-10-01T00:00:00Z"


class Lab(NamedTuple):
    """An API, and what it reads."""

    admin: Admin
    store: Store

    def ask(self, path: str, query: str = "", *, user: str | None = None, cursor: str | None = None) -> Answer:
        """Ask as an administrator, or as a user."""
        question = Ask("GET", ROOT + path, query, b"", "actor", user or "root", user is None, cursor)
        return self.admin.answer(question)

    def get(self, path: str, query: str = "", *, user: str | None = None) -> Any:
        """Return the object that a good answer is."""
        answer = self.ask(path, query, user=user)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def mistakes(self, path: str, query: str, *, user: str | None = None) -> list[str]:
        """Return what was wrong with a request."""
        answer = self.ask(path, query, user=user)
        assert answer.status == 400, answer.body
        message: str = json.loads(answer.body)["error"]["message"]
        return message.split("\n")

    def export(self, path: str, query: str = "", *, user: str | None = None) -> list[Answer]:
        """Return all parts of an export."""
        parts = [self.ask(path, query, user=user)]
        while parts[-1].cursor is not None:
            parts.append(self.ask(path, query, user=user, cursor=parts[-1].cursor))
        assert {part.status for part in parts} == {200}, parts
        return parts


@pytest.fixture
def lab(emptied_store: Store) -> Lab:
    """An API over an empty store of either engine."""
    vault, reloader = Vault([bytes(range(32))]), FakeReloader(emptied_store)
    return Lab(Admin(emptied_store, vault, reloader, dict, ShippingStatus), emptied_store)


def path_of(operation: Operation) -> str:
    """Return a path at which an operation is."""
    return operation.path.format(id="x", provider="x", user="x", server="x")


def rows(parts: list[Answer]) -> list[dict[str, str]]:
    """Return the rows of an export as CSV, by column."""
    return list(csv.DictReader(io.StringIO(b"".join(part.body for part in parts).decode(), newline="")))


def test_a_users_key_reads_what_is_open_and_nothing_else(lab: Lab) -> None:
    """The table says which operations those are, and what a worker lets through is the same."""
    for operation in OPERATIONS:
        path = path_of(operation)
        assert bool(asks.OPEN.fullmatch(path)) == operation.is_open, path
        answer = lab.admin.answer(Ask(operation.method, path, "", b"{}", "actor", "u1"))
        assert (answer.status == 403) != operation.is_open, (path, answer)
        assert operation.method == "GET" or not operation.is_open
    for path in ("/-/metrics", "/-/readyz", "/-/api/v1/nothing", "/-/api/v1/sessions/x/y"):
        assert lab.admin.answer(Ask("GET", path, "", b"", "actor", "u1")).status == 403


def test_a_user_sees_nothing_of_another(lab: Lab) -> None:
    """Neither in a list, a sum or an export, nor by an id, which is answered as if it did not exist."""
    lab.store.create_key("ann", "", is_admin=False, actor="test")
    lab.store.create_key("bob", "", is_admin=False, actor="test")
    ann, bob = lab.store.list_users()
    fill(
        lab.store,
        request(1, user_id=ann.id, session_id="mine", model="a"),
        request(2, user_id=bob.id, session_id="theirs", model="b", client="Zed"),
    )
    seen = {
        name: json.dumps(lab.get(name, query, user=ann.id))
        for name, query in (
            ("/interceptions", ""),
            ("/sessions", ""),
            ("/models", ""),
            ("/clients", ""),
            ("/users", ""),
            ("/usage", f"group_by=user,model&{PERIOD}"),
            ("/usage/unpriced", PERIOD),
            ("/interceptions/i0001", ""),
            ("/sessions/mine", ""),
        )
    }
    seen |= {
        path: b"".join(part.body for part in lab.export(path, query, user=ann.id)).decode()
        for path, query in (("/interceptions/export", ""), ("/usage/export", PERIOD))
    }
    for name, text in seen.items():
        for trace in ("bob", bob.id, "theirs", "Zed", '"b"', ",b,", "i0002"):
            assert trace not in text, name
    assert lab.get("/interceptions", "user=bob", user=ann.id)["interceptions"] == []
    assert lab.get("/sessions", "q=initiator:bob", user=ann.id)["sessions"] == []
    for path in ("/interceptions/i0002", "/sessions/theirs"):
        stranger, missing = lab.ask(path, user=ann.id), lab.ask(path[:-1] + "_", user=ann.id)
        assert (stranger.status, stranger.body) == (404, missing.body)
    assert lab.get("/sessions/theirs")["session"]["initiator"] == {"id": bob.id, "username": "bob"}
    assert len(lab.get("/interceptions")["interceptions"]) == 2


def test_nobody_sees_anything_without_an_id(lab: Lab) -> None:
    """An ask that says not whose it is is no administrator's either."""
    fill(lab.store, request(1))
    answer = lab.admin.answer(Ask("GET", f"{ROOT}/interceptions", "", b"", "actor"))
    assert json.loads(answer.body) == {"interceptions": [], "next": None}


def test_all_mistakes_are_told_at_once(lab: Lab) -> None:
    """Each names its parameter, and none shows a key that strayed there."""
    key = lab.store.create_key("ann", "", is_admin=False, actor="test")
    wrong = "limit=0&user=a&user=b&modle=x&started_after=yesterday&status=done&client=%FF&session_id=%00"
    query = f"{wrong}&{key}=1&model={key}"
    found = lab.mistakes("/interceptions", query)
    assert found == [
        "limit: found '0', expected a whole number from 1 to 1000",
        "user: found it more than once, expected one value",
        "query: modle: found an unknown name, expected model (the nearest name)",
        f"started_after: found 'yesterday', expected {INSTANTS.expected}",
        "status: found 'done', expected one of open, completed, failed, cancelled, interrupted",
        "client: found bytes that are no UTF-8, expected a text",
        "session_id: found '\\x00', expected a text",
        *[mistake for mistake in found if mistake.startswith("query: a parameter: found an unknown name")],
    ]
    assert len(found) == 8
    assert key not in "\n".join(found)


@pytest.mark.parametrize(
    ("path", "query", "mistake"),
    [
        ("/sessions", "after_session_id=x&offset=0", "offset: found it beside after_session_id"),
        ("/sessions", "q=model:a&model=b", "model: found it in q as well"),
        ("/sessions", "q=model:a+model:b", "q: model: found it more than once"),
        ("/sessions", "q=modell:a", "q: modell: found an unknown name, expected model (the nearest name)"),
        ("/sessions", "q=hello+model:b", "q: found 'hello', expected key:value"),
        ("/sessions", 'q=model:"a', "q: found 'model:\"a', expected key:value"),
        ("/sessions", "q=started_after:now", "q: started_after: found 'now', expected a time"),
        ("/sessions", "after_session_id=none", "after_session_id: found 'none', which is no session"),
        ("/sessions/s", "after_id=a&before_id=b", "before_id: found it beside after_id"),
        ("/sessions/s", "limit=201", "limit: found '201', expected a whole number from 1 to 200"),
        ("/sessions/s", "after_id=none", "after_id: found 'none', which is no thread"),
        ("/interceptions", "after=none", "after: found 'none', which is no interception"),
        ("/interceptions", "limit=1e2", "limit: found '1e2'"),
        ("/interceptions", "limit=%D9%A1", "limit: found '\u0661'"),
        ("/interceptions", "model=", "model: found '', expected a text"),
        ("/interceptions", "started_after=2026-01-01", "started_after: found '2026-01-01'"),
        ("/interceptions", "started_after=2026-01-01T00:00:00", "started_after: found"),
        ("/interceptions", "started_after=2026-02-30T00:00:00Z", "started_after: found"),
        ("/interceptions", "started_before=1969-12-31T23:59:59Z", "started_before: found"),
        ("/interceptions", "started_before=9999-12-31T23:59:59-01:00", "started_before: found"),
        ("/usage", "group_by=model,model", "group_by: found 'model,model', expected some of day, user, provider"),
        ("/usage", "group_by=", "group_by: found ''"),
        ("/usage", "from=2026-01-02T00:00:00Z&to=2026-01-02T00:00:00Z", "from: found 2026-01-02T00:00:00"),
        ("/usage/export", "format=xls", "format: found 'xls', expected one of csv, jsonl"),
        ("/openapi.json", "x=1", "query: x: found an unknown name"),
    ],
)
def test_a_mistake_names_its_parameter(lab: Lab, path: str, query: str, mistake: str) -> None:
    """What is wrong is a 400 that says where, what was found and what was expected."""
    fill(lab.store, request(1, session_id="s"))
    (found,) = lab.mistakes(path, query)
    assert found.startswith(mistake)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/interceptions", "after"),
        ("/sessions", "after_session_id"),
        ("/sessions/s", "after_id"),
        ("/sessions/s", "before_id"),
    ],
)
def test_no_cursor_shows_a_key(lab: Lab, path: str, name: str) -> None:
    """One that strayed there is told by its id, as it is everywhere."""
    fill(lab.store, request(1, session_id="s"))
    key = lab.store.create_key("ann", "", is_admin=False, actor="test")
    (found,) = lab.mistakes(path, f"{name}={key}")
    assert found.startswith(f"{name}: found '{key[:15]}_…', which is no ")


def test_times_are_instants_whatever_their_offset(lab: Lab) -> None:
    """The earlier bound belongs to the range, the later one does not."""
    fill(lab.store, request(1, at=NOW), request(2, at=NOW + SECOND))

    def found(query: str) -> str:
        return "".join(record["id"][-1] for record in lab.get("/interceptions", query)["interceptions"])

    assert found("started_after=2026-09-21T16:13:20.000000%2B02:00") == "21"
    assert found("started_after=2026-09-21t14:13:20.000001z") == "2"
    assert found("started_before=2026-09-21T14:13:21Z") == "1"
    assert found("started_before=2026-09-21T14:13:20Z&started_after=2026-09-21T14:13:20Z") == ""


def test_filters_as_words(lab: Lab) -> None:
    """`q` takes the words of the reference, where `provider` is a type, beside other filters."""
    fill(
        lab.store,
        request(1, session_id="s1", model="x y", provider="anthropic", provider_name="team"),
        request(2, session_id="s2", model="z", user_id="u2"),
    )

    def found(query: str) -> list[str]:
        return [session["id"] for session in lab.get("/sessions", query)["sessions"]]

    assert found("q=") == found("q=+") == ["s2", "s1"]
    assert found('q=model:"x y"+initiator:u1') == found("q=model:%22x+y%22") == ["s1"]
    assert found("q=provider:anthropic+provider_name:team&user=u1") == ["s1"]
    assert found("q=started_after:2026-09-21T14:13:22Z+session_id:s2+client:Codex") == ["s2"]
    assert found("q=started_before:2026-09-21T14:13:22Z") == ["s1"]


def test_sessions_are_told_apart_by_their_users(lab: Lab) -> None:
    """An id in a path may hold any characters, and a user chooses among those who have it."""
    fill(lab.store, request(1, session_id="a/b ü"), request(2, session_id="a/b ü", user_id="u2"))
    path = "/sessions/a%2Fb%20%C3%BC"
    assert lab.get(path)["session"]["initiator"]["id"] == "u2"
    assert lab.get(path, "user=u1")["session"]["initiator"]["id"] == "u1"
    assert lab.get(path, user="u1")["threads"][0]["prompt"] == "prompt 1"
    assert lab.ask(path, "user=u2", user="u1").status == 404
    assert lab.ask("/sessions/%FF").status == 400


def test_the_next_page_is_what_next_says(lab: Lab) -> None:
    """Cursors are taken back as they were given, in both lists, until there is none."""
    fill(lab.store, *(request(number, session_id="s", user_id=f"u{number}") for number in range(5)))
    for path, member, name in (
        ("/sessions", "sessions", "after_session_id"),
        ("/interceptions", "interceptions", "after"),
    ):
        whole = lab.get(path)
        assert whole["next"] is None
        pages = [lab.get(path, "limit=2")]
        while pages[-1]["next"] is not None:
            pages.append(lab.get(path, f"limit=2&{name}={pages[-1]['next']}"))
        assert [len(page[member]) for page in pages] == [2, 2, 1]
        assert [row for page in pages for row in page[member]] == whole[member]


def test_totals_are_the_sums_of_the_rows(lab: Lab) -> None:
    """Whatever the groups are, in whole numbers."""
    requests = [request(n, model=f"m{n % 3}", user_id=f"u{n % 2}", at=NOW - n * DAY, tokens=n) for n in range(1, 30)]
    fill(lab.store, *requests, costs={n: n**5 for n in range(1, 20)})
    expected = lab.get("/usage", PERIOD)
    assert expected["rows"] == [expected["totals"]]
    for groups in ("user", "model", "day", "provider", "client", "day,user,model,provider,client"):
        report = lab.get("/usage", f"group_by={groups}&{PERIOD}")
        assert report["totals"] == expected["totals"]
        for name, total in report["totals"].items():
            assert sum(row[name] for row in report["rows"]) == total


def test_a_report_is_about_the_last_thirty_days(lab: Lab) -> None:
    """Unless it is asked for others; the period is told."""
    fill(lab.store, request(1, at=NOW - 31 * DAY), request(2, at=NOW - 29 * DAY), request(3, at=NOW))
    queries = Queries(lab.store, lambda: NOW)
    (usage,) = [operation for operation in OPERATIONS if operation.name == "get_usage"]
    answer = queries.answer(usage, Ask("GET", usage.path, "", b"", "actor", is_admin=True))
    report = json.loads(answer.body)
    assert (report["from"], report["to"]) == ("2026-08-22T14:13:20.000000Z", "2026-09-21T14:13:20.000000Z")
    assert report["totals"]["requests"] == 1


def test_too_many_groups_are_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report in one piece has a limit, and the answer says what has none."""
    monkeypatch.setattr("bridgeserver.api.queries.MAX_GROUPS", 2)
    fill(lab.store, *(request(number, model=f"m{number}") for number in range(3)))
    assert lab.ask("/usage", f"group_by=model&{PERIOD}").status == 413
    assert len(rows(lab.export("/usage/export", f"group_by=model&{PERIOD}"))) == 3


def test_an_answer_that_no_line_can_hold_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 413 and not the end of the worker."""
    monkeypatch.setattr("bridgeserver.admin.MAX_ANSWER_BYTES", 100)
    fill(lab.store, request(1))
    answer = lab.ask("/interceptions")
    assert (answer.status, json.loads(answer.body)["error"]["type"]) == (413, "too_large")


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_an_export_has_every_row_once(lab: Lab, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """However it falls into parts: as CSV with one header, and as lines of JSON like those of the list."""
    monkeypatch.setattr(exports, "PART_ROWS", size)
    fill(lab.store, *(request(number) for number in range(1, 6)), request(6, user_id="u2"))
    parts = lab.export("/interceptions/export", "user=u1")
    assert [row["id"] for row in rows(parts)] == [f"i{number:04d}" for number in range(1, 6)]
    assert parts[0].headers == {"content-disposition": 'attachment; filename="interceptions.csv"'}
    assert parts[0].content_type.startswith("text/csv")
    lines = b"".join(part.body for part in lab.export("/interceptions/export", "format=jsonl")).splitlines()
    assert [json.loads(line) for line in lines] == lab.get("/interceptions")["interceptions"][::-1]


def test_an_export_ends_though_more_comes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What begins after its first part is not in it."""
    monkeypatch.setattr(exports, "PART_ROWS", 1)
    fill(lab.store, request(1), request(2))
    clock = [NOW + 5 * SECOND]
    (operation,) = [operation for operation in OPERATIONS if operation.name == "export_interceptions"]
    queries = Queries(lab.store, lambda: clock[0])
    found, cursor = list[bytes](), None
    for number in range(10, 20):
        ask = Ask("GET", operation.path, "format=jsonl", b"", "actor", is_admin=True, cursor=cursor)
        part = queries.answer(operation, ask)
        found.append(part.body)
        if (cursor := part.cursor) is None:
            break
        clock[0] += SECOND
        fill(lab.store, request(number))
    assert [json.loads(line)["id"] for line in found] == ["i0001", "i0002"]


def test_a_cell_is_never_a_formula(lab: Lab) -> None:
    """A text that a spreadsheet would work out gets an apostrophe, and nothing else is touched."""
    texts = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\n=x", "a=b", 'say "hi",\nplease', "'=1"]
    prompts = [(samples.interception(number), samples.prompt(number, text=text)) for number, text in enumerate(texts)]
    fill(
        lab.store,
        *prompts,
        request(90, model="=cmd|' /C calc'!A0", client="@SUM(1)"),
    )
    *found, last = rows(lab.export("/interceptions/export"))
    assert [row["prompt"] for row in found] == ["'" + text for text in texts[:7]] + texts[7:]
    assert (last["model"], last["client"], last["tools"]) == ("'=cmd|' /C calc'!A0", "'@SUM(1)", "look_up")
    assert (last["input_tokens"], last["streaming"], last["cost_micros"]) == ("1", "true", "")


@pytest.mark.parametrize("size", [1, 2, 100])
def test_usage_is_exported_by_group_and_period(lab: Lab, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A row for each group with the period that it is about; days without requests cost no part each."""
    monkeypatch.setattr(exports, "PART_ROWS", size)
    lab.store.create_key("ann", "", is_admin=False, actor="test")
    (ann,) = lab.store.list_users()
    fill(
        lab.store,
        request(1, at=MIDNIGHT - 1, model="b", user_id=ann.id, tokens=1),
        request(2, at=MIDNIGHT, model="a", user_id=ann.id, tokens=10),
        request(3, at=MIDNIGHT, model="b", user_id=ann.id, tokens=100),
        costs={1: 3, 2: 4},
    )
    period = "from=1970-01-01T00:00:00Z&to=2026-09-21T12:00:00Z"
    parts = lab.export("/usage/export", f"group_by=model,day&{period}")
    assert len(parts) < 9
    shown = [(row["day"], row["model"], row["input_tokens"], row["cost_micros"]) for row in rows(parts)]
    assert shown == [("2026-09-20", "b", "1", "3"), ("2026-09-21", "a", "10", "4"), ("2026-09-21", "b", "100", "0")]
    assert [(row["period_start"], row["period_end"]) for row in rows(parts)][1:] == [
        ("2026-09-21T00:00:00.000000Z", "2026-09-21T12:00:00.000000Z")
    ] * 2
    by_user = rows(lab.export("/usage/export", period))
    assert [(row["user"], row["provider_name"], row["model"], row["requests"]) for row in by_user] == [
        ("ann", "main", "a", "1"),
        ("ann", "main", "b", "2"),
    ]
    assert by_user[0]["period_end"] == "2026-09-21T12:00:00.000000Z"
    lines = b"".join(part.body for part in lab.export("/usage/export", f"format=jsonl&group_by=model&{period}"))
    report = lab.get("/usage", f"group_by=model&{period}")
    assert [json.loads(line) for line in lines.splitlines()] == report["rows"]


def test_the_document_is_valid_and_has_every_operation() -> None:
    """It is OpenAPI 3.1, made of the table; every type of an answer has a schema."""
    document = json.loads(msgspec.json.encode(openapi.document()))
    validate(document)
    described = {(method.upper(), path) for path, found in document["paths"].items() for method in found}
    assert described == {(operation.method, operation.path) for operation in OPERATIONS}
    names = [found["operationId"] for path in document["paths"].values() for found in path.values()]
    assert len(set(names)) == len(names)
    assert {"Interception", "Session", "UsageReport", "ProviderView", "Refusal"} <= set(
        document["components"]["schemas"]
    )


def test_the_document_is_served(lab: Lab) -> None:
    """To any key, as it is."""
    assert lab.get("/openapi.json", user="u1")["openapi"] == "3.1.0"
