"""The shipper: a thread of the parent process that takes the workers' journals to the store.

It tails every worker's folder, applies what is new in large idempotent batches, and removes segments whose
records are all in the store. A folder whose lock is free belongs to a dead worker: it is shipped to its end,
its open interceptions are ended as `interrupted`, and it is removed. That covers the leftovers of an earlier
start and a worker that died a moment ago alike. When the store fails, nothing moves and nothing is lost.
"""

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from bridgeserver.records import AnyRecord, now_us
from bridgeserver.tail import Tail

log = structlog.get_logger("bridgecore")

BATCH_RECORDS = 4000
POLL_S = 0.1
"""How often the journals are looked at; a reader of the store sees a record within 250 ms."""
RETRY_LIMIT_S = 5.0


class Sink(Protocol):
    """What the shipper needs of a store."""

    def apply(self, records: Sequence[AnyRecord]) -> int:
        """Insert *records*; applying them again changes nothing."""
        ...

    def interrupt(self, worker: str, ended_at: int) -> int:
        """End the open interceptions of a dead worker."""
        ...

    def open_workers(self) -> list[str]:
        """Return the workers that have open interceptions."""
        ...


class Shipper:
    """Ships the journals below *folder* to *store* until it is stopped."""

    def __init__(self, folder: Path, store: Sink, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._store = store
        self._clock = clock
        self._tails: dict[str, Tail] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)
        self._behind_since: float | None = None
        self._orphans_ended = False
        self.shipped = 0
        """Records taken to the store by this process."""

    @property
    def lag_s(self) -> float:
        """For how long the store has not taken what is waiting: it fails, or is still at it."""
        since = self._behind_since
        return 0.0 if since is None else self._clock() - since

    def start(self) -> None:
        """Begin shipping in a thread of its own; no worker may be starting yet."""
        for unfinished in self._folder.glob(".*"):
            if unfinished.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ship what is there and end; return whether that was done within *timeout_s*."""
        self._stopping.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def attempt(self) -> int | None:
        """Make a pass; return how many records were taken, or None if the store failed and nothing has moved."""
        if self._behind_since is None:
            self._behind_since = self._clock()
        try:
            if not self._orphans_ended:
                self._end_orphans()
            moved = self.ship()
        except Exception as exc:  # whatever a store may raise
            log.warning("shipping_failed", reason=str(exc).partition("\n")[0])
            return None
        self._behind_since = None
        return moved

    def _end_orphans(self) -> None:
        """End interceptions of workers that left no journal behind: it was removed, or lost with its volume."""
        for worker in self._store.open_workers():
            if not (self._folder / worker).exists():
                self._store.interrupt(worker, now_us())
        self._orphans_ended = True

    def ship(self) -> int:
        """Make one pass over all journals and return how many records were taken."""
        moved = 0
        for path in sorted(self._folder.iterdir()):
            if path.is_dir() and not path.name.startswith(".") and path.name not in self._tails:
                self._tails[path.name] = Tail(path)
        failures: list[Exception] = []
        for tail in list(self._tails.values()):
            try:
                moved += self._ship_one(tail)
            except Exception as exc:  # whatever one journal has, the others are shipped
                failures.append(exc)
        if failures:
            raise failures[0]
        return moved

    def _ship_one(self, tail: Tail) -> int:
        is_abandoned = tail.is_abandoned()
        records, advance = tail.read(BATCH_RECORDS)
        if records:
            self._store.apply(records)
            self.shipped += len(records)
        advance()
        if not records and is_abandoned:
            if tail.is_damaged():
                log.error("journal_damaged", worker=tail.worker, action="the rest of the segment was kept aside")
                tail.skip_segment()
                return 1
            self._end_worker(tail)
        return len(records)

    def _end_worker(self, tail: Tail) -> None:
        interrupted = self._store.interrupt(tail.worker, tail.last_at or now_us())
        if interrupted:
            log.warning("interceptions_interrupted", worker=tail.worker, count=interrupted)
        tail.remove()
        del self._tails[tail.worker]

    def _run(self) -> None:
        pause_s = POLL_S
        while True:
            last_pass = self._stopping.is_set()
            moved = self.attempt()
            pause_s = POLL_S if moved is not None else min(pause_s * 2, RETRY_LIMIT_S)
            if last_pass and not moved:
                return
            # Unless there is a whole batch more, let the records of a while gather: a transaction for each of a
            # few records costs several times as much.
            if moved is None or moved < BATCH_RECORDS:
                self._stopping.wait(pause_s)
