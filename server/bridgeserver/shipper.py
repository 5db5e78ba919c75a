"""The shipper: a thread of the parent process that takes the workers' journals to the store.

It tails every worker's folder, applies what is new in large idempotent batches, and removes segments whose
records are all in the store. A folder whose lock is free belongs to a dead worker: it is shipped to its end,
its open interceptions are ended as `interrupted`, and it is removed. That covers the leftovers of an earlier
start and a worker that died a moment ago alike. When the store fails, nothing moves and nothing is lost.
"""

import random
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from bridgeserver.batches import BatchSize, Refusals
from bridgeserver.records import AnyRecord, now_us
from bridgeserver.registry import Members, Registry
from bridgeserver.status import ShippingStatus
from bridgeserver.tail import Piece, Tail

log = structlog.get_logger("bridgecore")

POLL_S = 0.1
"""How often the journals are looked at; a reader of the store sees a record within 250 ms."""

RETRY_LIMIT_S = 5.0
LOST_AFTER_S = 86_400.0


class Sink(Members, Protocol):
    """What the shipper needs of a store."""

    def apply(self, records: Sequence[AnyRecord]) -> int:
        """Insert *records*; applying them again changes nothing."""
        ...

    def probe(self) -> None:
        """Raise if the store itself is broken."""
        ...


class Shipper:
    """Ships the journals below *folder* to *store* until it is stopped.

    Other gateways' journals count as lost after *lost_after_s* of silence. *clock* is monotonic; *chance* returns a
    number from 0 to 1.
    """

    def __init__(
        self,
        folder: Path,
        store: Sink,
        *,
        lost_after_s: float = LOST_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
        wall_us: Callable[[], int] = now_us,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._folder = folder
        self._store = store
        self._clock = clock
        self._wall_us = wall_us
        self._chance = chance
        self._registry = Registry(folder, store, lost_after_s=lost_after_s, clock=clock, now_us=wall_us)
        self._tails: dict[str, Tail] = {}
        self._refusals: dict[str, Refusals] = {}
        self._size = BatchSize()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)
        self._behind_since: float | None = None
        self._is_full = False
        self._retry_s = POLL_S
        self.shipped = 0
        """Records taken to the store by this process."""
        self._batches = self._refused = self._damaged = self._failures = 0
        self._batch_s = 0.0

    @property
    def lag_s(self) -> float:
        """For how long the store has not taken all that is waiting: it fails, or is still at it."""
        since = self._behind_since
        return 0.0 if since is None else self._clock() - since

    def stats(self) -> ShippingStatus:
        """Return how it goes; any thread may ask."""
        tails = list(self._tails.values())
        lag_s = self.lag_s
        return ShippingStatus(
            lag_s=lag_s,
            journal_bytes=sum(tail.waiting_bytes() for tail in tails),
            segments=sum(tail.segment_count() for tail in tails),
            records=self.shipped,
            batches=self._batches,
            batch_s=self._batch_s,
            refused=self._refused,
            damaged=self._damaged,
            failures=self._failures,
        )

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
        """Make a pass; return how many records were taken, or None if the store failed, after which all is as before.

        The lag counts from the beginning of the first pass that failed, or had to leave something behind.
        """
        if self._behind_since is None:
            self._behind_since = self._clock()
        try:
            moved = self.ship()
        except Exception as exc:  # whatever a store may raise
            log.warning("shipping_failed", reason=str(exc).partition("\n")[0])
            self._failures += 1
            self._size.reset()
            return None
        if not self._is_full:
            self._behind_since = None
        return moved

    def ship(self) -> int:
        """Make one pass over all journals; return how many records were taken, and pieces of damage passed."""
        self._registry.renew()
        self._find_tails()
        moved = 0
        self._is_full = False
        failures: list[Exception] = []
        for tail in list(self._tails.values()):
            try:
                moved += self._ship_one(tail)
            except Exception as exc:  # whatever one journal has, the others are shipped
                failures.append(exc)
        if failures:
            raise failures[0]
        self._size.note(is_full=self._is_full)
        return moved

    def _find_tails(self) -> None:
        for path in sorted(self._folder.iterdir()):
            if path.name not in self._tails and not path.name.startswith(".") and path.is_dir():
                self._tails[path.name] = Tail(path, self._clock)

    def _ship_one(self, tail: Tail) -> int:
        is_abandoned = tail.is_abandoned()
        piece = tail.read(self._size.records, self._size.bytes, is_abandoned=is_abandoned)
        self._registry.register(tail.worker)
        if piece.records:
            self._apply(tail, piece)
        piece.advance()
        self._damaged += piece.damaged
        self._is_full |= piece.is_full
        moved = len(piece.records) + piece.damaged
        if not moved and is_abandoned:
            self._end_worker(tail)
        return moved

    def _apply(self, tail: Tail, piece: Piece) -> None:
        """Apply the records of a piece, but for those that the store refuses for what they are."""
        refusals = self._refusals.get(tail.worker)
        if refusals is None:
            path = self._folder / f"{tail.worker}.refused"
            refusals = self._refusals[tail.worker] = Refusals(path, self._store)
        began = self._clock()
        refused = refusals.apply(piece.records)
        self._batch_s += self._clock() - began
        self._batches += 1
        self._refused += refused
        self.shipped += len(piece.records) - refused

    def _end_worker(self, tail: Tail) -> None:
        self._registry.end(tail.worker, tail.last_at or self._wall_us())
        tail.remove()
        del self._tails[tail.worker]
        self._refusals.pop(tail.worker, None)

    def _run(self) -> None:
        while True:
            last_pass = self._stopping.is_set()
            moved = self.attempt()
            if last_pass and not moved:
                break
            pause_s = self._pause_s(has_failed=moved is None)
            # Unless there is a whole batch more, let the records of a while gather: a transaction for each of a
            # few records costs several times as much.
            if pause_s:
                self._stopping.wait(pause_s)
        for tail in self._tails.values():
            tail.close()

    def _pause_s(self, *, has_failed: bool) -> float:
        """Return how long to wait for the next pass; gateways whose store failed must not all come back at once."""
        if not has_failed:
            self._retry_s = POLL_S
            return 0.0 if self._is_full else POLL_S
        self._retry_s = min(self._retry_s * 2, RETRY_LIMIT_S)
        return self._retry_s * (0.5 + self._chance() / 2)
