"""Forgetting: what is older than the retention is deleted, in batches that the shipper hardly notices."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

log = structlog.get_logger("bridgecore")

BATCH = 100
"""Interceptions of one transaction: 10 to 30 ms on SQLite, for which the shipper waits."""
PAUSE_S = 0.05
"""Between two of them: longer than SQLite lets a waiting writer sleep before it looks again."""
FIRST_S = 60.0
EVERY_S = 3600.0
DAY_US = 86_400_000_000


class Forgetful(Protocol):
    """What is needed of a store."""

    def purge(self, before: int, limit: int) -> int:
        """Delete interceptions and what belongs to them."""
        ...

    def purge_orphans(self, before: int, limit: int) -> int:
        """Delete what belongs to no interception."""
        ...


def purge(
    store: Forgetful,
    before: int,
    *,
    pause: Callable[[float], object],
    on_batch: Callable[[int], object] = lambda _count: None,
) -> int:
    """Delete all that began before that time, in microseconds since the epoch; return how many interceptions.

    *pause* is called between two transactions; if it returns something true, no more is deleted.
    """
    total = 0
    while count := store.purge(before, BATCH):
        total += count
        on_batch(count)
        if pause(PAUSE_S):
            return total
    while store.purge_orphans(before, BATCH):
        if pause(PAUSE_S):
            break
    return total


def days_ago(days: int, now_s: float) -> int:
    """Return a time that so many days lie behind *now_s*, in microseconds since the epoch."""
    return int(now_s * 1e6) - days * DAY_US


class Purger:
    """Purges a store once an hour, in a thread of its own, until it is stopped."""

    def __init__(
        self,
        store: Forgetful,
        retention_days: int,
        *,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._store = store
        self._days = retention_days
        self._clock = clock
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait
        self._thread = threading.Thread(target=self._run, name="purge", daemon=True)

    def start(self) -> None:
        """Begin, some time after the start."""
        self._thread.start()

    def stop(self) -> None:
        """End after the batch that is running."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        pause_s = FIRST_S
        while not self._wait(pause_s):
            self._pass()
            pause_s = EVERY_S

    def _pass(self) -> None:
        try:
            count = purge(self._store, days_ago(self._days, self._clock()), pause=self._wait)
        except Exception as exc:  # whatever a store may raise
            log.warning("purge_failed", reason=str(exc).partition("\n")[0], effect="it is tried again in an hour")
            return
        if count:
            log.info("records_purged", interceptions=count, retention_days=self._days)
