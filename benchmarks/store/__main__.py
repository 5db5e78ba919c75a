"""How long the queries of the API take on a store with many rows.

    python -m benchmarks.store --rows 2000000 --folder /somewhere

fills a store below that folder unless it is there, asks each question several times, and writes medians in
milliseconds to benchmarks/results/store.json. What is measured is the store alone: from the call to the typed answer,
in one process, with a warm cache of the file system. `--explain` prints how the engine would go about each statement.
"""

import argparse
import json
import platform
import sqlite3
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Engine, event

from benchmarks.store import rows
from bridgeserver.store import Store, open_store
from bridgeserver.store.queries import sessions, threads
from bridgeserver.store.queries.filters import Filters

RESULTS = Path(__file__).parent.parent / "results" / "store.json"
MONTH_US = 30 * rows.DAY_US


class Question(NamedTuple):
    """One call of the store."""

    name: str
    ask: Callable[[], object]


def questions(store: Store) -> list[Question]:
    """Return what is asked, with cursors and users of this store."""
    everybody = Filters()
    heavy, light = (Filters(owner=store.initiators(everybody, name, 1)[0].id) for name in ("user0000", "user0999"))
    month = Filters(started_after=rows.END_US - MONTH_US, started_before=rows.END_US)
    deep = store.newest_sessions(everybody, sessions.Page(1, offset=50_000)).next
    record = store.newest_interceptions(everybody, None, 1000).next
    session = store.newest_sessions(everybody, sessions.Page(1, offset=10)).sessions[0].id

    def sessions_of(filters: Filters, **page: Any) -> Callable[[], object]:
        return lambda: store.newest_sessions(filters, sessions.Page(100, **page))

    return [
        Question("sessions, first page", sessions_of(everybody)),
        Question("sessions, after 50,000 others", sessions_of(everybody, after=deep)),
        Question("sessions, of a model that most use", sessions_of(Filters(model="claude-sonnet-4-5"))),
        Question("sessions, of a model and a client", sessions_of(Filters(model="o4-mini", client="Zed"))),
        Question("sessions, of a model that nobody uses", sessions_of(Filters(model="none"))),
        Question("sessions, of one week", sessions_of(Filters(started_after=rows.END_US - 7 * rows.DAY_US))),
        Question("sessions, as a busy user", sessions_of(heavy)),
        Question("sessions, as another user", sessions_of(light)),
        Question("sessions, 1000 at once", lambda: store.newest_sessions(everybody, sessions.Page(1000))),
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


def measure(question: Question, rounds: int) -> float:
    """Return the median time in milliseconds."""
    question.ask()
    times: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        question.ask()
        times.append((time.perf_counter() - start) * 1000)
    return round(statistics.median(times), 2)


def explain(store: Store, question: Question) -> None:
    """Print the plan of every statement that a question makes; SQLite only."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        seen.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        question.ask()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    print(f"\n== {question.name}")
    with sqlite3.connect(store.path) as connection:
        for statement, parameters in seen:
            if not statement.startswith("BEGIN"):
                print("-", " ".join(statement.split())[-150:])
                for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters):
                    print("   ", row[3][:140])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="interceptions")
    parser.add_argument("--url", help="a store that may be filled; by default SQLite in the folder")
    parser.add_argument("--folder", type=Path, default=Path("build/store"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--explain", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    store = open_store(options.url or f"sqlite:///{options.folder}/{options.rows}.db")
    store.upgrade()
    start = time.perf_counter()
    if next(store.records(limit=1), None) is None:
        for made in rows.fill(store, rows.Scale(options.rows)):
            print(f"\r{made:,} of {options.rows:,} rows", end="", flush=True)
        print(f" in {time.perf_counter() - start:.0f} s")
    medians: dict[str, float] = {}
    for question in questions(store):
        if options.explain:
            explain(store, question)
        medians[question.name] = measure(question, options.rounds)
        print(f"{medians[question.name]:>10.2f} ms  {question.name}", flush=True)
    result = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "interceptions": options.rows,
        "median_ms": medians,
    }
    options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
