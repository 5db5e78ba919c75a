"""Journals in tests: records, workers that are dead, and a store that does what it is told."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bridgeserver.errors import NotRecordable, StoreError, StoreUnavailable
from bridgeserver.journal import Journal, segment_path
from bridgeserver.records import AnyRecord, Interception, InterceptionEnd, UserPrompt
from bridgeserver.shipper import Shipper
from bridgeserver.tail import Tail


def interception(number: int, worker: str = "w") -> Interception:
    """Return a record with an id of its own."""
    return Interception(
        id=f"i{number}",
        user_id="u",
        key_id="k",
        provider="openai",
        provider_name="openai",
        protocol="chat",
        model="m",
        streaming=False,
        client="Unknown",
        user_agent="",
        session_id=None,
        correlating_tool_call_id=None,
        credential_kind="centralized",
        credential_hint="",
        worker=worker,
        started_at=1000 + number,
    )


def prompt(number: int, text: str) -> UserPrompt:
    """Return the prompt of interception *number*."""
    return UserPrompt(f"i{number}", 1, text, truncated=False, created_at=1000 + number)


def end(number: int) -> InterceptionEnd:
    """Return the end of interception *number*."""
    return InterceptionEnd(f"i{number}", "completed", 200, None, None, 1, 2000 + number)


class Shelf:
    """A store that keeps what it is given, and fails when it is told to."""

    def __init__(self) -> None:
        self.records: list[AnyRecord] = []
        self.batches: list[int] = []
        self.interrupted: list[tuple[str, int]] = []
        self.open: list[str] = []
        self.workers: dict[str, str] = {}
        self.journals: dict[str, int] = {}
        self.fails = False
        self.is_broken = False
        self.refuses: Callable[[AnyRecord], bool] = lambda _record: False

    def apply(self, records: Sequence[AnyRecord]) -> int:
        if self.fails:
            raise StoreUnavailable("the shelf is full")
        if any(map(self.refuses, records)) or self.is_broken:
            raise StoreError("a record does not fit")
        self.batches.append(len(records))
        self.records += records
        return len(records)

    def probe(self) -> None:
        if self.is_broken:
            raise StoreError("the shelf is broken")

    def renew_journal(self, journal: str, seen_at: int) -> bool:
        if self.fails:
            raise StoreUnavailable("the shelf is full")
        is_new = journal not in self.journals
        self.journals[journal] = seen_at
        return is_new

    def other_journals(self, journal: str) -> list[tuple[str, int]]:
        return [item for item in self.journals.items() if item[0] != journal]

    def end_journal(self, journal: str, seen_at: int, ended_at: int) -> int | None:
        if self.journals.get(journal) != seen_at:
            return None
        del self.journals[journal]
        return sum(self.end_worker(worker, ended_at) for worker, of in list(self.workers.items()) if of == journal)

    def register_worker(self, worker: str, journal: str) -> None:
        self.workers[worker] = journal

    def orphans(self, journal: str) -> list[str]:
        return [worker for worker, of in self.workers.items() if of == journal] + self.open

    def end_worker(self, worker: str, ended_at: int) -> int:
        self.workers.pop(worker, None)
        self.interrupted.append((worker, ended_at))
        return 1


def ship_all(folder: Path, shelf: Shelf) -> Shipper:
    """Ship all that is there, and return the shipper."""
    shipper = Shipper(folder, shelf)
    while shipper.ship():
        pass
    return shipper


def read_all(tail: Tail) -> list[AnyRecord]:
    """Return everything that a tail has to give."""
    piece = tail.read(1_000_000, 1 << 40)
    piece.advance()
    return piece.records


def in_loop(scenario: Callable[[], Any]) -> Any:
    """Run an async *scenario*."""
    return asyncio.run(scenario())


def kept(journal: Journal, records: Sequence[AnyRecord]) -> asyncio.Future[None]:
    """Begin an interception; the result is done once it is kept, or raises why it is not."""
    waiter = asyncio.get_running_loop().create_future()

    def then(failure: NotRecordable | None) -> None:
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(failure)

    journal.begin(records, then)
    return waiter


def abandoned(folder: Path, data: bytes, number: int = 1) -> Path:
    """Make the folder of a dead worker whose segment holds *data*."""
    worker = folder / "dead"
    worker.mkdir(exist_ok=True)
    (worker / "lock").touch()
    segment_path(worker, number).write_bytes(data.ljust(1 << 16, b"\0"))
    return worker
