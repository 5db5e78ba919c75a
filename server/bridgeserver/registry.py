"""Whose journal a worker's is: several gateways may share a database, and each ends what is its own.

A journal's folder has an id, made once. The shipper registers it, and each worker before it ships from it, and renews
the time at which the journal was last heard of. What a worker without a folder has left open is ended by its own
gateway; when that is not heard of any more, by whichever of the others notices first.
"""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

import structlog

from bridgecore import uuid7

log = structlog.get_logger("bridgecore")

RENEW_S = 10.0
WATCH_S = 6 * RENEW_S
"""For how long this gateway itself must have seen no sign of another one's journal before it is taken for lost: its own
wall clock may have jumped, and theirs may be wrong."""


class Members(Protocol):
    """What the registry needs of a store."""

    def renew_journal(self, journal: str, seen_at: int) -> bool:
        """Note that a journal is there, and return whether it was unknown."""
        ...

    def other_journals(self, journal: str) -> list[tuple[str, int]]:
        """Return the other journals, and when each was last heard of."""
        ...

    def end_journal(self, journal: str, seen_at: int, ended_at: int) -> int | None:
        """End all that a journal has left open, and forget it; None if it was heard of meanwhile, or is gone."""
        ...

    def register_worker(self, worker: str, journal: str) -> None:
        """Note to which journal a worker belongs."""
        ...

    def orphans(self, journal: str) -> list[str]:
        """Return the workers of a journal, and those with open interceptions that belong to none."""
        ...

    def end_worker(self, worker: str, ended_at: int) -> int:
        """End all that a worker has left open, and forget it; return how many interceptions that were."""
        ...


class Registry:
    """One journal among those of a database.

    *clock* is monotonic and *now_us* the wall clock; *lost_after_s* is how long another journal may be silent.
    """

    def __init__(
        self,
        folder: Path,
        store: Members,
        *,
        lost_after_s: float,
        clock: Callable[[], float],
        now_us: Callable[[], int],
    ) -> None:
        self._folder = folder
        self._store = store
        self._lost_after_us = round(lost_after_s * 1_000_000)
        self._clock = clock
        self._now_us = now_us
        self._id: str | None = None
        self._renewed_at: float | None = None
        self._registered: set[str] = set()
        self._seen: dict[str, tuple[int, float]] = {}

    def renew(self) -> None:
        """Say that this journal is there, and end what others have left open, if it is time for it."""
        now = self._clock()
        if self._renewed_at is not None and now - self._renewed_at < RENEW_S:
            return
        if self._id is None:
            self._id = journal_id(self._folder)
        if self._store.renew_journal(self._id, self._now_us()):
            self._registered.clear()  # it is new, or another gateway has taken it for lost
        self._end_orphans(self._id, {path.name for path in self._folder.iterdir()})
        self._end_lost(self._id, now)
        self._renewed_at = now

    def register(self, worker: str) -> None:
        """Register a worker before anything of it is shipped; again is nothing."""
        if worker not in self._registered and self._id is not None:
            self._store.register_worker(worker, self._id)
            self._registered.add(worker)

    def end(self, worker: str, ended_at: int) -> None:
        """End what a dead worker has left open, all of whose records are in the store."""
        self._registered.discard(worker)
        interrupted = self._store.end_worker(worker, ended_at)
        if interrupted:
            log.warning("interceptions_interrupted", worker=worker, count=interrupted)

    def _end_orphans(self, journal: str, present: Collection[str]) -> None:
        """End what workers left open whose folder was removed, or lost with its volume."""
        for worker in self._store.orphans(journal):
            if worker not in present:
                self.end(worker, self._now_us())

    def _end_lost(self, journal: str, now: float) -> None:
        others = self._store.other_journals(journal)
        before = self._seen
        # An unchanged time keeps the moment at which it was first seen.
        self._seen = {
            other: before[other] if before.get(other, (None,))[0] == seen_at else (seen_at, now)
            for other, seen_at in others
        }
        for other, (seen_at, since) in self._seen.items():
            if self._now_us() - seen_at > self._lost_after_us and now - since >= WATCH_S:
                interrupted = self._store.end_journal(other, seen_at, self._now_us())
                if interrupted:
                    log.warning("journal_lost", journal=other, seen_at=seen_at, interrupted=interrupted)


def journal_id(folder: Path) -> str:
    """Return the id of a journal's folder, which is made if there is none."""
    path = folder / "id"
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        pass
    made = uuid7()
    unfinished = folder / ".id"
    with unfinished.open("w", encoding="ascii") as file:
        file.write(f"{made}\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    return made
