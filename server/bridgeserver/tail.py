"""The other end of a journal: the shipper reads a worker's segments and removes what is done with."""

import fcntl
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from bridgeserver.journal import FRAME, SEALED, SEGMENT_BYTES, segment_path
from bridgeserver.records import AnyRecord, Interception, InterceptionEnd

log = structlog.get_logger("bridgecore")

FIRST_READ_BYTES = 4 << 10
READ_BYTES = 1 << 20
"""How much of a segment is read at once: little at first, as there is little or nothing new most of the time."""

_decoder = msgspec.json.Decoder(AnyRecord)


class Tail:
    """The shipper's side of one worker's folder: reads its records in order, and removes what is done with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.worker = folder.name
        self.last_at = 0
        """Time of the last record taken, in microseconds since the epoch."""
        self._unreadable: list[bytes] = []
        self._number = min((int(path.stem) for path in folder.glob("*.seg")), default=1)
        self._offset = 0

    def is_abandoned(self) -> bool:
        """Whether the worker is gone. Ask before reading: what it wrote last can then not be missed."""
        try:
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    def read(self, limit: int) -> tuple[list[AnyRecord], Callable[[], None]]:
        """Return up to about *limit* further records, and what to call once they are in the store.

        Until that is called, reading again returns the same records.
        """
        records: list[AnyRecord] = []
        self._unreadable.clear()
        number, offset = self._number, self._offset
        while len(records) < limit:
            found, offset, sealed = self._read_segment(number, offset, limit - len(records))
            records += found
            if not sealed:
                break
            number, offset = number + 1, 0

        def advance() -> None:
            self._set_aside()
            self._advance(number, offset)
            if records:
                self.last_at = max(self.last_at, _time_of(records[-1]))

        return records, advance

    def is_damaged(self) -> bool:
        """Whether the worker went on in a later segment: then what stops the reading here is not the end."""
        try:
            following = segment_path(self.folder, self._number + 1).open("rb")
        except FileNotFoundError:
            return False
        with following:
            return any(following.read(FRAME.size))

    def skip_segment(self) -> None:
        """Keep the rest of a damaged segment aside and go on with the next."""
        path = segment_path(self.folder, self._number)
        with suppress(FileNotFoundError):
            path.rename(self.folder.parent / f"{self.worker}-{path.stem}.damaged")
        self._number, self._offset = self._number + 1, 0

    def remove(self) -> None:
        """Remove the folder of an abandoned worker whose records are all in the store."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read_segment(self, number: int, offset: int, limit: int) -> tuple[list[AnyRecord], int, bool]:
        payloads: list[bytes] = []
        count = 0
        is_sealed = False
        try:
            descriptor = os.open(segment_path(self.folder, number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return [], offset, False
        try:
            for payload, end in read_frames(descriptor, offset):
                offset = end
                if payload is None:
                    is_sealed = True
                    break
                payloads.append(payload)
                count += payload.count(b"\n") or 1
                if count >= limit:
                    break
        finally:
            os.close(descriptor)
        return self._decode(payloads), offset, is_sealed

    def _decode(self, payloads: list[bytes]) -> list[AnyRecord]:
        """Return the records of *payloads*, and put aside those that this version cannot read."""
        try:
            return _decoder.decode_lines(b"\n".join(payloads))  # older versions left out the last line's end
        except msgspec.DecodeError:
            return list(self._decode_each(payloads))

    def _decode_each(self, payloads: Iterable[bytes]) -> Iterator[AnyRecord]:
        for payload in payloads:
            for line in filter(None, payload.split(b"\n")):
                try:
                    yield _decoder.decode(line)
                except msgspec.DecodeError:
                    self._unreadable.append(line)

    def _set_aside(self) -> None:
        """Keep the records that this version cannot read, which must not hold up those behind them."""
        if not self._unreadable:
            return
        path = self.folder.parent / f"{self.worker}.damaged"
        log.error("records_unreadable", kept_in=str(path), count=len(self._unreadable))
        with path.open("ab") as kept:
            kept.writelines(payload + b"\n" for payload in self._unreadable)
        self._unreadable.clear()

    def _advance(self, number: int, offset: int) -> None:
        for done in range(self._number, number):
            with suppress(FileNotFoundError):
                segment_path(self.folder, done).unlink()
        self._number, self._offset = number, offset


def read_frames(descriptor: int, offset: int) -> Iterator[tuple[bytes | None, int]]:
    """Yield each whole payload from *offset* on with the offset after it, and None for the seal.

    Stops at the first frame that is not there yet, or whose bytes do not match their checksum: of a living
    worker that is a write under way, of a dead one a torn write.
    """
    data, start = b"", offset
    size = min(FIRST_READ_BYTES, READ_BYTES)
    while True:
        at = offset - start
        if at + FRAME.size > len(data):
            data, start, at = os.pread(descriptor, size, offset), offset, 0
            size = min(size * 8, READ_BYTES)
            if len(data) < FRAME.size:
                return
        length, checksum = FRAME.unpack_from(data, at)
        if length == SEALED:
            yield None, offset + FRAME.size
            return
        if length == 0 or length > SEGMENT_BYTES:
            return
        at += FRAME.size
        if at + length > len(data):
            data, start, at = os.pread(descriptor, max(size, FRAME.size + length), offset), offset, FRAME.size
            size = min(size * 8, READ_BYTES)
        payload = data[at : at + length]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            return
        offset += FRAME.size + length
        yield payload, offset


def _time_of(record: AnyRecord) -> int:
    if isinstance(record, Interception):
        return record.started_at
    if isinstance(record, InterceptionEnd):
        return record.ended_at
    return record.created_at
