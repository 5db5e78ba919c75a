"""The other end of a journal: the shipper reads a worker's segments and removes what is done with.

Reading stops where no whole frame follows. That is the end of what there is, a write under way, or damage: a worker
writes one frame after another, so a whole frame further on, or a later segment that was begun, says that what stands
here was finished and has been damaged since. It is kept aside then, and reading goes on behind it. Without such a
witness the worker may still be writing; of a dead one, it is the end.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from bridgeserver import aside
from bridgeserver.disk import is_abandoned
from bridgeserver.frames import find_frame, holds_frames, opened, read_frames, segment_numbers, waiting_bytes
from bridgeserver.journal import FRAME, SEGMENT_BYTES, segment_path
from bridgeserver.records import AnyRecord, Interception, InterceptionEnd

log = structlog.get_logger("bridgecore")

PIECE_BYTES = 16 << 20
"""How much is read at most for one piece, the last frame not counted."""

LOOK_S = 1.0
LOOK_BEHIND_NOTHING_S = 10.0
"""How often a living worker's segment is searched behind a place with bytes that are no frame, and behind one with
none: that is where an undamaged segment ends, and a search reads the rest of it."""

_decoder = msgspec.json.Decoder(AnyRecord)


class Gap(NamedTuple):
    """Damage between two places of a journal."""

    number: int
    offset: int
    data: bytes
    then: tuple[int, int]
    """The segment and the offset in it where reading goes on."""


class Piece(NamedTuple):
    """The next records of a journal."""

    records: list[AnyRecord]
    advance: Callable[[], None]
    """To be called once they are in the store; until then, reading again returns the same."""
    is_full: bool
    """Whether reading ended at its limits, so that there may be more."""
    damaged: int
    """Frames, and records in them, that cannot be read and are kept aside by *advance*."""


class _Reading:
    """One walk along a journal."""

    def __init__(self, number: int, offset: int, max_records: int, max_bytes: int) -> None:
        self.number, self.offset = number, offset
        self.payloads: list[bytes] = []
        self.gaps: list[Gap] = []
        self.ends_in_bytes = False
        """Whether what stands at its end is something, and no frame."""
        self._records_left, self._bytes_left = max_records, max_bytes

    @property
    def is_full(self) -> bool:
        return self._records_left <= 0 or self._bytes_left <= 0

    def take(self, payload: bytes, end: int) -> None:
        self.payloads.append(payload)
        self.offset = end
        self._records_left -= payload.count(b"\n") or 1
        self._bytes_left -= len(payload)

    def go_on(self, gap: Gap) -> None:
        self.gaps.append(gap)
        self.number, self.offset = gap.then
        self._bytes_left -= len(gap.data)


class Tail:
    """The shipper's side of one worker's folder: reads its records in order, and removes what is done with."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.worker = folder.name
        self.last_at = 0
        """Time of the last record taken, in microseconds since the epoch."""
        self._clock = clock
        self._looked_at = float("-inf")
        self._number = next(iter(segment_numbers(self.folder)), 1)
        self._offset = 0
        self._position: int | None = None

    def is_abandoned(self) -> bool:
        """Whether the worker is gone. Ask before reading: what it wrote last can then not be missed."""
        return is_abandoned(self.folder)

    def read(self, max_records: int, max_bytes: int = PIECE_BYTES, *, is_abandoned: bool = False) -> Piece:
        """Return what follows, up to about so many records and bytes."""
        reading = _Reading(self._number, self._offset, max_records, max_bytes)
        while not reading.is_full:
            if self._read_segment(reading):
                reading.number, reading.offset = reading.number + 1, 0
                continue
            gap = None if reading.is_full else self._look_behind(reading, is_abandoned=is_abandoned)
            if gap is None:
                break
            reading.go_on(gap)
        unreadable: list[bytes] = []
        records = self._decode(reading.payloads, unreadable)

        def advance() -> None:
            self._set_aside(reading.gaps, unreadable)
            self._advance(reading.number, reading.offset)
            if records:
                self.last_at = _time_of(records[-1])

        return Piece(records, advance, reading.is_full, len(reading.gaps) + len(unreadable))

    def waiting_bytes(self) -> int:
        """Return about how much is written and was not taken yet."""
        return waiting_bytes(self.folder, self._number, self._offset)

    def segment_count(self) -> int:
        """Return how many segments are on the disk."""
        return len(segment_numbers(self.folder))

    def remove(self) -> None:
        """Remove the folder of an abandoned worker whose records are all in the store."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        if self._position is not None:
            os.close(self._position)
            self._position = None

    def _read_segment(self, reading: _Reading) -> bool:
        """Read on in a segment, and return whether its seal was reached."""
        with suppress(FileNotFoundError), opened(self.folder, reading.number) as descriptor:
            for payload, end in read_frames(descriptor, reading.offset):
                if payload is None:
                    return True
                reading.take(payload, end)
                if reading.is_full:
                    return False
            reading.ends_in_bytes = any(os.pread(descriptor, FRAME.size, reading.offset))
        return False

    def _look_behind(self, reading: _Reading, *, is_abandoned: bool) -> Gap | None:
        """Return what is damaged where reading ended, or None if nothing says that it is."""
        if not is_abandoned:
            now = self._clock()
            if now - self._looked_at < (LOOK_S if reading.ends_in_bytes else LOOK_BEHIND_NOTHING_S):
                return None
            self._looked_at = now
        number, offset = reading.number, reading.offset
        with suppress(FileNotFoundError), opened(self.folder, number) as descriptor:
            return self._find_gap(descriptor, number, offset)
        following = self._following(number)
        return None if following is None else Gap(number, offset, b"", (following, 0))

    def _find_gap(self, descriptor: int, number: int, offset: int) -> Gap | None:
        found = find_frame(descriptor, offset)
        following = self._following(number) if found is None else None
        if found is None and following is None:
            return None
        # The witness may be younger than the look at this place: whoever was writing here then has ended now.
        if next(read_frames(descriptor, offset), None) is not None:
            return None
        if found is not None:
            return Gap(number, offset, os.pread(descriptor, found - offset, offset), (number, found))
        assert following is not None  # noqa: S101 - one of the two is there
        return Gap(number, offset, os.pread(descriptor, SEGMENT_BYTES, offset).rstrip(b"\0"), (following, 0))

    def _following(self, number: int) -> int | None:
        """Return the next segment that the worker has begun."""
        later = (other for other in segment_numbers(self.folder) if other > number)
        return next((other for other in later if holds_frames(self.folder, other)), None)

    def _decode(self, payloads: list[bytes], unreadable: list[bytes]) -> list[AnyRecord]:
        """Return the records of *payloads*, and add to *unreadable* those that this version cannot read."""
        try:
            return _decoder.decode_lines(b"\n".join(payloads))  # older versions left out the last line's end
        except msgspec.DecodeError:
            return list(_decode_each(payloads, unreadable))

    def _set_aside(self, gaps: list[Gap], unreadable: list[bytes]) -> None:
        for gap in gaps:
            path = self.folder.parent / f"{self.worker}-{gap.number:08d}-{gap.offset}.damaged"
            log.error(
                "journal_damaged",
                worker=self.worker,
                segment=gap.number,
                offset=gap.offset,
                bytes=len(gap.data),
                kept_in=str(path) if gap.data else None,
            )
            if gap.data:
                aside.keep_bytes(path, gap.data)
        if unreadable:
            path = self.folder.parent / f"{self.worker}.damaged"
            log.error("records_unreadable", kept_in=str(path), count=len(unreadable))
            aside.keep_lines(path, unreadable)

    def _advance(self, number: int, offset: int) -> None:
        for done in range(self._number, number):
            with suppress(FileNotFoundError):
                segment_path(self.folder, done).unlink()
        if (number, offset) != (self._number, self._offset):
            self._number, self._offset = number, offset
            self._note_position()

    def _note_position(self) -> None:
        """Write down for people how far shipping has come; nothing depends on it."""
        with suppress(OSError):
            if self._position is None:
                self._position = os.open(self.folder / "position", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._position, b"%08d %08d\n" % (self._number, self._offset), 0)


def _decode_each(payloads: Iterable[bytes], unreadable: list[bytes]) -> Iterator[AnyRecord]:
    for payload in payloads:
        for line in filter(None, payload.split(b"\n")):
            try:
                yield _decoder.decode(line)
            except msgspec.DecodeError:
                unreadable.append(line)


def _time_of(record: AnyRecord) -> int:
    if isinstance(record, Interception):
        return record.started_at
    if isinstance(record, InterceptionEnd):
        return record.ended_at
    return record.created_at
