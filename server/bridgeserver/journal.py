"""The journal: records are appended to files of the worker first, and taken to the store from there.

A worker owns one folder, `<journal>/<worker id>/`, holding `lock` (held with `flock` while the worker lives)
and numbered segments. A segment is a file of fixed size, allocated when it is made so that a full disk is met
before a request is accepted and not at its end. It holds frames:

    length  u32 little-endian; 0: nothing was written here yet; 0xffffffff: sealed, go on in the next segment
    crc     u32 little-endian, CRC-32 of the payload
    payload records as JSON, a line each: {"kind":…

All records of one turn of the event loop share a frame and go out in one `write`, whoever made them: under load that is
a system call for dozens of requests. A record counts as kept when that write has returned: the page cache survives the
death of the process. What a power cut may take is set by `sync`.
"""

import asyncio
import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal
from typing import Protocol as Interface

import msgspec
import structlog

from bridgecore import uuid7
from bridgeserver.disk import allocate, is_abandoned, sync_and_close, sync_folder, sync_quietly
from bridgeserver.errors import NotRecordable
from bridgeserver.records import AnyRecord

log = structlog.get_logger("bridgecore")

FRAME = struct.Struct("<II")
SEALED = 0xFFFFFFFF
SEGMENT_BYTES = 8 << 20
"""Larger than the largest frame: a prompt of 1 MiB whose every byte JSON spells with six."""

RESERVE_BYTES = 16 << 10
"""Room kept for the rest of each open interception: its tokens, tools and end."""

HEADROOM = 8
"""One segment in so many is for requests that run: what they need beyond the reserve must not be lost because others
began."""

SYNC_INTERVAL_S = 1.0
WATCH_S = 0.25
"""How often is looked whether the segment that is written is still the one that the shipper finds."""

RETRY_S = 0.2
"""After a write that failed; until one succeeds no new interception begins."""

Sync = Literal["none", "interval", "always"]

Then = Callable[[NotRecordable | None], object]
"""What is to happen once records are kept, or cannot be."""


class Sink(Interface):
    """What takes the records of an interception: the journal, or somebody who looks at them on their way there."""

    def begin(self, records: Sequence[AnyRecord], then: Then) -> None:
        """Take an interception and what belongs to it, and call *then* once they are kept. Raises NotRecordable."""
        ...

    def append(self, record: AnyRecord) -> None:
        """Take a record of an open interception."""
        ...

    def end(self, records: Sequence[AnyRecord]) -> None:
        """Take the last records of an open interception, its end among them."""
        ...


_encode = msgspec.json.Encoder().encode_lines


def frame(*records: AnyRecord) -> bytes:
    """Return *records* as they stand in a segment when they were made at the same time."""
    return _frame([_encode(records)])


def _frame(entries: Sequence[bytes]) -> bytes:
    payload = b"".join(entries)
    return FRAME.pack(len(payload), zlib.crc32(payload)) + payload


class Journal:
    """The worker's side: appends records, refuses new interceptions before there is no room to end them.

    *max_bytes* bounds the segments of this worker that are not shipped yet, together with its share, as one of
    *workers*, of what dead ones have left; all but an eighth of them is open to new interceptions. Bound to one event
    loop.
    """

    def __init__(self, folder: Path, *, max_bytes: int, sync: Sync = "none", workers: int = 1) -> None:
        self.worker = uuid7()
        self._folder = folder / self.worker
        self._workers = workers
        self._max_segments = max(2, max_bytes // SEGMENT_BYTES)
        kept = max(1, self._max_segments // HEADROOM) if self._max_segments > 2 else 0
        self._max_segments_to_begin = self._max_segments - kept
        self._limit = self._max_segments_to_begin
        self._sync: Sync = sync
        self._loop = asyncio.get_running_loop()
        self._lock = _make_worker_folder(folder, self.worker)
        if sync != "none":
            sync_folder(folder)
        self._limit -= self._count_leftovers()
        self._number = 0
        self._oldest = 1
        self._spares: list[int] = []
        self._segment = self._add_segment()
        self._offset = 0
        self._open = 0
        self._entries: list[bytes] = []
        self._queued_bytes = 0
        self._waiting: list[Then] = []
        self._is_scheduled = False
        self._sync_timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self.dropped = 0
        """Records of open interceptions for which there was no room."""
        self.is_lost = False
        """Whether the folder is gone: removed, or with its volume. What is written then reaches nobody."""
        self._watch_timer = self._loop.call_later(WATCH_S, self._watch)

    def begin(self, records: Sequence[AnyRecord], then: Then) -> None:
        """Append an interception and what belongs to it, and call *then* once they are kept.

        Raises NotRecordable if there is no room. When *then* is given one, the write or the sync failed: nothing may
        go upstream, but the interception counts as open until its end is appended.
        """
        entry = _encode(records)
        size = len(entry) + FRAME.size
        if self._retry is not None:
            raise NotRecordable("the journal cannot be written at the moment")
        if self.is_lost:
            raise NotRecordable("the folder of the journal is gone; bring its volume back and start the gateway again")
        limit = self._limit
        is_within = self._number - self._oldest < limit and self._has_room(
            size, (self._open + 1) * RESERVE_BYTES, limit
        )
        if not is_within and not self._has_room_after_all(size):
            raise NotRecordable("the journal has no room for another request; its records are not being shipped")
        self._open += 1
        self._queue(entry, size)
        self._waiting.append(then)

    def append(self, record: AnyRecord) -> None:
        """Append a record of an open interception.

        One that would take the room that other interceptions need to end is left out, logged, and counted: the journal
        and its share for those that run are full, or the disk is.
        """
        entry = _encode((record,))
        size = len(entry) + FRAME.size
        if not self._has_room(size, self._open * RESERVE_BYTES, self._max_segments):
            self.dropped += 1
            log.error("record_dropped", reason="the journal is full", kind=type(record).__name__, bytes=size)
            return
        self._queue(entry, size)

    def end(self, records: Sequence[AnyRecord]) -> None:
        """Append the last records of an open interception, its end among them, for which room was kept."""
        self._open -= 1
        entry = _encode(records)
        self._queue(entry, len(entry) + FRAME.size)

    def close(self) -> None:
        """Write what is queued and let go of the lock, so that the shipper takes the journal as ended."""
        self._flush()
        if self._sync != "none":
            sync_quietly(os.dup(self._segment))
        self._watch_timer.cancel()
        if self._retry is not None:
            self._retry.cancel()
        if self._sync_timer is not None:
            self._sync_timer.cancel()
        for descriptor in (self._segment, *self._spares, self._lock):
            os.close(descriptor)

    def _queue(self, entry: bytes, size: int) -> None:
        self._entries.append(entry)
        self._queued_bytes += size
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what is queued, and sync it as the policy has it."""
        self._is_scheduled = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        waiting, self._waiting = self._waiting, []
        try:
            self._write()
        except OSError as exc:
            log.warning("journal_write_failed", folder=str(self._folder), reason=exc.strerror)
            _tell(waiting, f"the journal cannot be written: {exc.strerror}")
            # What could not be written is kept: the ends of running requests must not be lost.
            self._retry = self._loop.call_later(RETRY_S, self._flush)
            return
        if waiting and self._sync == "always":
            # A copy of the descriptor: the next turn may close the segment.
            _tell_after(self._loop.run_in_executor(None, sync_and_close, os.dup(self._segment)), waiting)
        else:
            _tell(waiting)
        if self._sync == "interval" and self._sync_timer is None:
            self._sync_timer = self._loop.call_later(SYNC_INTERVAL_S, self._sync_now)

    def _write(self) -> None:
        """Write the records that are queued; those that could not be written stay queued."""
        # The seal needs the room of one frame header.
        if self._entries and self._offset + self._queued_bytes + FRAME.size <= SEGMENT_BYTES:
            self._put(self._entries)
            self._entries.clear()
            self._queued_bytes = 0
        while self._entries:
            first = self._entries[:1]
            size = len(first[0]) + FRAME.size
            if self._offset + size + FRAME.size > SEGMENT_BYTES:
                self._rotate()
            self._put(first)
            del self._entries[0]
            self._queued_bytes -= size

    def _put(self, entries: Sequence[bytes]) -> None:
        data = _frame(entries)
        if os.pwrite(self._segment, data, self._offset) < len(data):
            raise OSError(errno.ENOSPC, "the write was cut short")
        self._offset += len(data)

    def _rotate(self) -> None:
        if not self._spares:
            self._spares.append(self._add_segment())
        os.pwrite(self._segment, FRAME.pack(SEALED, 0), self._offset)
        if self._sync != "none":
            os.fsync(self._segment)
        os.close(self._segment)
        self._segment, self._offset = self._spares.pop(0), 0  # not before all this has worked: it may be tried again

    def _has_room(self, size: int, reserve: int, max_segments: int) -> bool:
        """Whether *size* more bytes fit and leave *reserve*, after allocating further segments if need be."""
        queued = self._queued_bytes + size + FRAME.size
        # What does not fit into the current segment goes to the next one, and the rest of this one is lost.
        left = SEGMENT_BYTES - self._offset
        if queued + reserve <= left:
            return True
        usable = left if queued <= left else 0
        while usable + len(self._spares) * SEGMENT_BYTES < queued + reserve:
            if self._count_segments() >= max_segments:
                return False
            try:
                self._spares.append(self._add_segment())
            except OSError as exc:
                log.warning("journal_segment_failed", folder=str(self._folder), reason=exc.strerror)
                return False
        return True

    def _has_room_after_all(self, size: int) -> bool:
        """Whether another interception may begin, by what is on the disk now."""
        self._limit = limit = self._max_segments_to_begin - self._count_leftovers()
        # What those that run have beyond the limit is not for others, although there is room in it.
        return self._count_segments() <= limit and self._has_room(size, (self._open + 1) * RESERVE_BYTES, limit)

    def _count_leftovers(self) -> int:
        """Return how many segments of dead workers count as this one's: the journal must not grow with each death."""
        with suppress(OSError):
            left = sum(
                len(list(path.glob("*.seg")))
                for path in self._folder.parent.iterdir()
                if path != self._folder and not path.name.startswith(".") and path.is_dir() and is_abandoned(path)
            )
            return -(-left // self._workers)
        return 0

    def _count_segments(self) -> int:
        """Return how many segments there are; the shipper removes them, the oldest first."""
        while self._oldest <= self._number and not segment_path(self._folder, self._oldest).exists():
            self._oldest += 1
        return self._number - self._oldest + 1

    def _add_segment(self) -> int:
        path = segment_path(self._folder, self._number + 1)
        descriptor = allocate(path, SEGMENT_BYTES)
        try:
            if self._sync != "none":
                sync_folder(self._folder)
        except OSError:
            os.close(descriptor)
            path.unlink()  # a segment that is not used must not stand in the row
            raise
        self._number += 1
        return descriptor

    def _watch(self) -> None:
        """Look whether the shipper can find what is written."""
        self._watch_timer = self._loop.call_later(WATCH_S, self._watch)
        path = segment_path(self._folder, self._number - len(self._spares))
        was_lost = self.is_lost
        try:
            self.is_lost = not os.path.samestat(path.stat(), os.fstat(self._segment))
        except FileNotFoundError:
            self.is_lost = True
        except OSError:  # nothing is known now
            return
        if self.is_lost and not was_lost:
            log.error("journal_vanished", folder=str(self._folder), action="new requests are refused")

    def _sync_now(self) -> None:
        self._sync_timer = None
        self._loop.run_in_executor(None, sync_quietly, os.dup(self._segment))


def _make_worker_folder(folder: Path, worker: str) -> int:
    """Make the worker's folder and return its lock; it appears under its name only once it is locked."""
    unlocked = folder / f".{worker}"
    unlocked.mkdir(mode=0o700)
    lock = os.open(unlocked / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unlocked.rename(folder / worker)
    return lock


def _tell(waiting: list[Then], failure: str | None = None) -> None:
    for then in waiting:
        try:
            then(None if failure is None else NotRecordable(failure))
        except Exception:  # of one request; the others wait too
            log.exception("request_failed", step="after it was recorded")


def _tell_after(sync: asyncio.Future[None], waiting: list[Then]) -> None:
    def tell(done: asyncio.Future[None]) -> None:
        error = done.exception()
        _tell(waiting, f"the journal cannot be synced: {error}" if error else None)

    sync.add_done_callback(tell)


def segment_path(folder: Path, number: int) -> Path:
    """Return the path of a worker's segment *number*, counted from 1."""
    return folder / f"{number:08d}.seg"
