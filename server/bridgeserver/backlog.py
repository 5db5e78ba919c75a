"""Log lines on their way to standard error, which may be a pipe that nobody reads: whoever logs never waits for it."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable

import structlog

log = structlog.get_logger("bridgecore")

MAX_BYTES = 16 << 20
"""Of lines that wait; those up to the level `info` are dropped when half of it is full, the others when all is."""

TELL_S = 60.0
CLOSE_S = 1.0


class Backlog(logging.Handler):
    """Formats lines at once, and has a thread write them; what finds no room is dropped, and told of later."""

    def __init__(
        self,
        write: Callable[[bytes], object],
        *,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._write = write
        self._max_bytes = max_bytes
        self._clock = clock
        self._lines: deque[bytes] = deque()
        self._entered = 0  # bytes, under the handler's lock; `_written` is the thread's alone
        self._written = 0
        self.dropped = 0
        self._told = 0
        self._told_at: float | None = None
        self._awake = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line, or count it as dropped."""
        try:
            line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
        except Exception:  # what cannot be logged must not fail who logs
            self.dropped += 1
            return
        limit = self._max_bytes if record.levelno > logging.INFO else self._max_bytes // 2
        if self._entered - self._written + len(line) > limit:
            self.dropped += 1
            return
        self._entered += len(line)
        self._lines.append(line)
        self._awake.set()

    def close(self) -> None:
        """Write what waits, within `CLOSE_S`."""
        self._is_closing = True
        self._awake.set()
        self._thread.join(CLOSE_S)
        super().close()

    def _run(self) -> None:
        while not self._is_closing:
            self._awake.wait()
            self._awake.clear()
            self._empty()
        self._empty()  # what came between the last look and the end

    def _empty(self) -> None:
        while self._lines:
            line = self._lines.popleft()
            try:
                self._write(line)
            except (OSError, ValueError):  # nobody will ever read it
                self.dropped += 1
            self._written += len(line)
            if self.dropped != self._told:
                self._tell()

    def _tell(self) -> None:
        now = self._clock()
        if self._told_at is not None and now - self._told_at < TELL_S:
            return
        count, self._told, self._told_at = self.dropped - self._told, self.dropped, now
        log.warning("log_lines_dropped", count=count, reason="standard error is not read fast enough")


def write_all(descriptor: int, data: bytes) -> None:
    """Write *data*, past the buffers of Python, whose locks would outlive a thread that hangs here."""
    while data:
        data = data[os.write(descriptor, data) :]
