"""Load on a gateway whose store, or whose processes, are taken away; and what must hold afterwards.

An engine is a database that can be taken away: add one to `ENGINES` and every storm runs on it.
"""

import http.client
import itertools
import json
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import gateway as gateways
from bridgeserver import fakeprovider
from bridgeserver.fakeprovider import FakeProvider, Script
from bridgeserver.store import open_store
from gateway import BODIES, Gateway
from pglab import PostgresLab

MARKER = re.compile(r"<[a-z0-9-]+>")
CLIENTS = 6
SCRIPTS = {"slow": Script(gap_s=0.02, output_tokens=40)}
"""What the provider of a storm answers, so that streams are open at every moment."""


class Engine(Protocol):
    """A database that can be taken away."""

    url: str

    def take_away(self) -> None:
        """Let nobody write to it; returns once that is so."""
        ...

    def bring_back(self) -> None:
        """Have it work again."""
        ...


class SqliteEngine:
    """SQLite, which another process locks."""

    LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "bridgecore.db"
        self.url = f"sqlite:///{self._path}"
        self._locker: subprocess.Popen[str] | None = None

    def take_away(self) -> None:
        self._locker = subprocess.Popen(
            [sys.executable, "-c", self.LOCK, self._path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._locker.stdout is not None
        assert self._locker.stdout.readline() == "locked\n"

    def bring_back(self) -> None:
        if self._locker is not None:
            self._locker.communicate("")
            self._locker = None


@contextmanager
def sqlite(folder: Path) -> Generator[Engine]:
    """Yield SQLite in a file of *folder*."""
    engine = SqliteEngine(folder)
    try:
        yield engine
    finally:
        engine.bring_back()


class PostgresEngine:
    """PostgreSQL, whose server is stopped."""

    def __init__(self, lab: PostgresLab, url: str) -> None:
        self._lab = lab
        self.url = url

    def take_away(self) -> None:
        self._lab.stop()

    def bring_back(self) -> None:
        self._lab.start()


@contextmanager
def postgresql(_folder: Path) -> Generator[Engine]:
    """Yield a PostgreSQL server of its own, so that nobody else misses it."""
    lab = PostgresLab()
    try:
        with lab.bare_database() as url:
            yield PostgresEngine(lab, url)
    finally:
        lab.close()


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Engine]]] = {"sqlite": sqlite, "postgresql": postgresql}


def provider() -> AbstractContextManager[FakeProvider]:
    """Run a provider that forgets no request."""
    return fakeprovider.running(scripts=SCRIPTS, keep_requests=1_000_000)


def configure(folder: Path, engine: Engine, fake: FakeProvider, *, server: str = "", journal: str = "") -> str:
    """Write a configuration of a gateway on *engine*, and return a key for it."""
    more = f'[store]\nurl = "{engine.url}"\n[journal]\npath = "journal"\n{journal}'
    gateways.write_config(folder, fake.url, server=server, more=more)
    store = open_store(engine.url)
    store.upgrade()
    key = store.create_key("tester", "", is_admin=True, actor="tests")
    store.close()
    return key


def read_records(engine: Engine) -> list[dict[str, Any]]:
    """Return all records of a store."""
    store = open_store(engine.url)
    try:
        return list(store.records())
    finally:
        store.close()


def ended_records(engine: Engine, is_whole: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """Return all records as soon as none is open and *is_whole* says that they are there."""

    def look() -> list[dict[str, Any]] | None:
        records = read_records(engine)
        return records if is_whole(records) and all(record["status"] != "open" for record in records) else None

    return gateways.eventually(look, 60)


class Load:
    """Clients that ask in every protocol, blocking and streaming, each time with a marker of its own.

    What was answered is in `statuses` by marker: the status of a whole answer, or None where it broke off.
    """

    def __init__(self, gateway: Gateway, name: str, clients: int = CLIENTS) -> None:
        self.sent: list[str] = []
        self.statuses: dict[str, int | None] = {}
        self.without_retry_after: list[str] = []
        self._gateway = gateway
        self._name = name
        self._is_over = threading.Event()
        self._answered = threading.Condition()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let each client end its request."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int, status: int = 200, timeout_s: float = 30.0) -> None:
        """Wait until *count* more requests were answered with *status*."""
        with self._answered:
            before = self.count(status)
            assert self._answered.wait_for(lambda: self.count(status) >= before + count, timeout_s), self.summary()

    def count(self, status: int | None) -> int:
        """Return how many requests have had that end."""
        return list(self.statuses.values()).count(status)

    def with_status(self, status: int | None) -> set[str]:
        """Return the markers of the requests that have had that end."""
        return {marker for marker, found in self.statuses.items() if found == status}

    def summary(self) -> Counter[int | None]:
        """Return how many requests have had which end."""
        return Counter(self.statuses.values())

    def _run(self, number: int) -> None:
        chance = random.Random(f"{self._name} {number}")
        connection = self._gateway.connect()
        for turn in itertools.count():
            if self._is_over.is_set():
                break
            marker = f"<{self._name}-{number}-{turn}>"
            self.sent.append(marker)
            try:
                status: int | None = self._ask(connection, marker, chance)
            except (OSError, http.client.HTTPException):
                status = None
                connection.close()
            with self._answered:
                self.statuses[marker] = status
                self._answered.notify_all()
            if status != 200:
                self._is_over.wait(0.02)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, marker: str, chance: random.Random) -> int | None:
        path, body = request(marker, chance)
        headers = {"authorization": f"Bearer {self._gateway.key}", "content-type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status == 503 and not answer.headers["retry-after"]:
            self.without_retry_after.append(marker)
        return answer.status


def request(marker: str, chance: random.Random) -> tuple[str, dict[str, Any]]:
    """Return a path and a body with *marker* in its prompt; one in four is a stream that takes its time."""
    path = chance.choice(list(BODIES))
    body = dict(BODIES[path])
    if path.endswith("/responses"):
        body["input"] = f"say {marker}"
    else:
        body["messages"] = [{"role": "user", "content": f"say {marker}"}]
    if chance.random() < 0.25:
        body |= {"stream": True, "model": "slow"}
    return path, body


def markers(texts: Iterable[str]) -> Counter[str]:
    """Count the markers in *texts*, each of which has one."""
    return Counter(marker for text in texts for marker in MARKER.findall(text))


def reached(fake: FakeProvider) -> Counter[str]:
    """Count the markers in what has reached the provider."""
    return markers(received.body.decode() for received in fake.requests)


def judge(fake: FakeProvider, records: list[dict[str, Any]], sent: Iterable[str]) -> None:
    """Check that what reached the provider has one interception each, and that none was invented or doubled."""
    recorded = markers(record["prompt"] for record in records)
    assert len({record["id"] for record in records}) == len(records)
    assert [marker for marker, count in recorded.items() if count > 1] == []
    assert recorded.total() == len(records)
    assert set(recorded) <= set(sent)
    assert set(reached(fake)) - set(recorded) == set()
    assert all(record["ended_at"] >= record["started_at"] for record in records)
