"""Batches: how much is shipped at once, and what becomes of one that the store does not take."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from bridgeserver import aside
from bridgeserver.errors import StoreError, StoreUnavailable
from bridgeserver.records import AnyRecord, Interception

log = structlog.get_logger("bridgecore")

RECORDS = 1000
BYTES = 2 << 20
"""Of a batch while there is little to ship. It holds the store's writers up for some 20 ms."""

GROWTH = 8
"""How many times as large one may become while more waits than fits into it: larger transactions cost less a record."""

REFUSALS = (StoreError, ValueError, TypeError, OverflowError)
"""What a store raises over a record that it cannot hold; a driver's own conversions raise the builtins."""


class Judge(Protocol):
    """A store that takes records, and says whether it is sound."""

    def apply(self, records: Sequence[AnyRecord]) -> int:
        """Insert *records*, all or none."""
        ...

    def probe(self) -> None:
        """Raise if the store itself is broken."""
        ...


class BatchSize:
    """Twice as much after each full batch, half as much after others, the least after a failure."""

    def __init__(self) -> None:
        self._scale = 1

    @property
    def records(self) -> int:
        return RECORDS * self._scale

    @property
    def bytes(self) -> int:
        return BYTES * self._scale

    def note(self, *, is_full: bool) -> None:
        """Adapt to how the last one was."""
        self._scale = min(self._scale * 2, GROWTH) if is_full else max(self._scale // 2, 1)

    def reset(self) -> None:
        """Begin anew; the size may be what the store could not bear."""
        self._scale = 1


class Refusals:
    """Records of one worker that the store refuses for what they are; they are kept aside, and hold up nobody.

    With an interception all that belongs to it is kept aside: the store would pass over its end.
    """

    def __init__(self, path: Path, store: Judge) -> None:
        self._path = path
        self._store = store
        self._interceptions = {record.id for record in _kept(path) if isinstance(record, Interception)}

    def apply(self, records: Sequence[AnyRecord]) -> int:
        """Apply *records* without those that the store refuses, and return how many these were.

        Raises what a store raises that is unavailable or broken; then nothing is refused.
        """
        refused: list[AnyRecord] = []
        self._apply(records, refused)
        if refused:
            aside.keep_lines(self._path, [msgspec.json.encode(record) for record in refused])
        return len(refused)

    def _apply(self, records: Sequence[AnyRecord], refused: list[AnyRecord]) -> None:
        if self._interceptions:
            refused += [record for record in records if self._belongs(record)]
            records = [record for record in records if not self._belongs(record)]
        try:
            self._store.apply(records)
        except StoreUnavailable:
            raise
        except REFUSALS as error:
            if len(records) > 1:
                middle = len(records) // 2
                self._apply(records[:middle], refused)
                self._apply(records[middle:], refused)
                return
            self._store.probe()  # a broken one must not refuse everything
            self._refuse(records[0], error)
            refused.append(records[0])

    def _belongs(self, record: AnyRecord) -> bool:
        return getattr(record, "interception_id", None) in self._interceptions

    def _refuse(self, record: AnyRecord, error: Exception) -> None:
        if isinstance(record, Interception):
            self._interceptions.add(record.id)
        reason = str(error) if isinstance(error, StoreError) else type(error).__name__
        log.error("record_refused", kind=type(record).__name__, reason=reason, kept_in=str(self._path))


def _kept(path: Path) -> list[AnyRecord]:
    """Return what an earlier process kept aside."""
    try:
        return msgspec.json.Decoder(AnyRecord).decode_lines(path.read_bytes())
    except FileNotFoundError:
        return []
    except msgspec.DecodeError:  # edited by hand
        return []
