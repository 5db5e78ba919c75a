"""The frames of a segment: read one after another, and found again behind damage."""

import os
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bridgeserver.journal import FRAME, SEALED, SEGMENT_BYTES, segment_path

FIRST_READ_BYTES = 4 << 10
READ_BYTES = 1 << 20
"""How much of a segment is read at once: little at first, as there is little or nothing new most of the time."""

SEAL = FRAME.pack(SEALED, 0)

BEGINNING = b'{"kind":'
"""What every payload begins with. The header before it has a zero byte, its length being what it is, and JSON has none:
nothing that stands in a record is taken for a frame."""


def read_frames(descriptor: int, offset: int) -> Iterator[tuple[bytes | None, int]]:
    """Yield each whole payload from *offset* on with the offset after it, and None for the seal.

    Stops at the first frame that is not there yet, or whose bytes do not match their checksum: a write under way, a
    torn write, or damage. Which of these it is only what comes later can tell.
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
        if length == SEALED and checksum == 0:
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


def find_frame(descriptor: int, offset: int) -> int | None:
    """Return where the first whole frame from *offset* on begins, or None if there is none in the segment."""
    data = os.pread(descriptor, SEGMENT_BYTES, offset)
    at = data.find(BEGINNING)
    while at >= 0:
        start = at - FRAME.size
        if start >= 0:
            length, checksum = FRAME.unpack_from(data, start)
            if 0 < length <= len(data) - at and zlib.crc32(data[at : at + length]) == checksum:
                return offset + start
        at = data.find(BEGINNING, at + 1)
    return None


def segment_numbers(folder: Path) -> list[int]:
    """Return the numbers of the segments in a worker's folder, in their order."""
    return sorted(int(path.stem) for path in folder.glob("*.seg"))


@contextmanager
def opened(folder: Path, number: int) -> Generator[int]:
    """Open a segment for reading; raises FileNotFoundError."""
    descriptor = os.open(segment_path(folder, number), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def holds_frames(folder: Path, number: int) -> bool:
    """Whether anything was written to a segment, be its beginning damaged."""
    with suppress(FileNotFoundError), opened(folder, number) as descriptor:
        return _is_begun(descriptor) or find_frame(descriptor, 0) is not None
    return False  # it was shipped a moment ago


def waiting_bytes(folder: Path, number: int, offset: int) -> int:
    """Return about how much is written from a place on: all segments but the last one count whole."""
    begun = [later for later in segment_numbers(folder) if later >= number and _is_begun_at(folder, later)]
    if not begun:
        return 0
    last = begun.pop()
    with suppress(FileNotFoundError), opened(folder, last) as descriptor:
        start = offset if last == number else 0
        end = max((end for _payload, end in read_frames(descriptor, start)), default=start)
        return end - start + len(begun) * SEGMENT_BYTES - (offset if begun[:1] == [number] else 0)
    return 0  # it was shipped a moment ago


def _is_begun_at(folder: Path, number: int) -> bool:
    with suppress(FileNotFoundError), opened(folder, number) as descriptor:
        return _is_begun(descriptor)
    return False


def _is_begun(descriptor: int) -> bool:
    return any(os.pread(descriptor, FRAME.size, 0))
