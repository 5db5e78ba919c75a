"""What the API asks of a store, and how long the answer takes: from the call to the typed answer, in one process."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import Engine, event

from benchmarks.store import rows
from bridgeserver.store import Store
from bridgeserver.store.queries import sessions, threads
from bridgeserver.store.queries.filters import Filters

MONTH_US = 30 * rows.DAY_US
DEEP = 50_000
"""Sessions before a deep cursor; where there are not as many it stands after the first."""

EXPLAIN = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN (ANALYZE, BUFFERS)"}


class Question(NamedTuple):
    """One call of the store."""

    name: str
    ask: Callable[[], object]


def questions(store: Store) -> list[Question]:
    """Return what is asked, with cursors and users of this store."""
    everybody = Filters()
    heavy, light = (Filters(owner=store.initiators(everybody, name, 1)[0].id) for name in ("user0000", "user0999"))
    month = Filters(started_after=rows.END_US - MONTH_US, started_before=rows.END_US)
    record = store.newest_interceptions(everybody, None, 1000).next
    session = store.newest_sessions(everybody, sessions.Page(1, offset=10)).sessions[0].id

    def sessions_of(filters: Filters, limit: int = 100, **page: Any) -> Callable[[], object]:
        return lambda: store.newest_sessions(filters, sessions.Page(limit, **page))

    return [
        Question("sessions, first page", sessions_of(everybody)),
        Question("sessions, after 50,000 others", sessions_of(everybody, after=_deep(store))),
        Question("sessions, of a model that most use", sessions_of(Filters(model="claude-sonnet-4-5"))),
        Question("sessions, of a client that most use", sessions_of(Filters(client="Claude Code"))),
        Question("sessions, of a model and a client", sessions_of(Filters(model="gpt-5-codex", client="Codex"))),
        Question(
            "sessions, of a model and a client, rare together", sessions_of(Filters(model="o4-mini", client="Zed"))
        ),
        Question(
            "sessions, of a model and a client that nobody uses together",
            sessions_of(Filters(model="gpt-5-codex", client="Claude Code")),
        ),
        Question("sessions, of a model that nobody uses", sessions_of(Filters(model="none"))),
        Question("sessions, of one week", sessions_of(Filters(started_after=rows.END_US - 7 * rows.DAY_US))),
        Question("sessions, as a busy user", sessions_of(heavy)),
        Question("sessions, as another user", sessions_of(light)),
        Question("sessions, 1000 at once", sessions_of(everybody, 1000)),
        Question("one session", lambda: store.find_session(session, everybody, threads.Page(50))),
        Question("interceptions, first page", lambda: store.newest_interceptions(everybody, None, 100)),
        Question("interceptions, after 1000 others", lambda: store.newest_interceptions(everybody, record, 100)),
        Question(
            "interceptions, failed ones of a model",
            lambda: store.newest_interceptions(Filters(model="gpt-5-codex", status="failed"), None, 100),
        ),
        Question("interceptions, as a busy user", lambda: store.newest_interceptions(heavy, None, 100)),
        Question("models", lambda: store.models(everybody, "", 100)),
        Question("models, as a busy user", lambda: store.models(heavy, "", 100)),
        Question("clients", lambda: store.clients(everybody, "", 100)),
        Question("usage of 30 days by model and day", lambda: store.usage(("day", "model"), month, limit=10_000)),
        Question("usage of 30 days by user", lambda: store.usage(("user",), month, limit=10_000)),
    ]


def _deep(store: Store) -> str:
    """Return the cursor after many sessions."""
    first = store.newest_sessions(Filters(), sessions.Page(1))
    return store.newest_sessions(Filters(), sessions.Page(1, offset=DEEP)).next or first.next or ""


def measure(store: Store, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each question, with the milliseconds of each round; each is asked once before."""
    for question in questions(store):
        question.ask()
        times = [_milliseconds(question.ask) for _ in range(rounds)]
        yield {"question": question.name, "median_ms": round(statistics.median(times), 2), "ms": times}


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return round((time.perf_counter() - began) * 1000, 2)


def explain(store: Store, question: Question) -> None:
    """Print how the engine goes about each statement that a question makes."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        seen.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        question.ask()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    print(f"\n== {question.name}")
    for statement, parameters in seen:
        if statement.startswith(("SELECT", "WITH")):
            print("-", " ".join(statement.split())[-150:])
            for line in store._read(_plan, statement, parameters):  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
                print("   ", line)


def _plan(connection: Any, statement: str, parameters: Any) -> list[str]:
    found = connection.exec_driver_sql(f"{EXPLAIN[connection.dialect.name]} {statement}", parameters)
    return [str(row[-1])[:160] for row in found]
