"""Log lines on their way to a reader, and to one that does not read."""

import logging
import threading

import pytest
from structlog.testing import capture_logs

from bridgeserver import backlog
from bridgeserver.backlog import Backlog


class Reader:
    """Reads what is written when the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked = threading.Semaphore(0)
        self.read: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.asked.release()
        self.gate.wait()
        self.read.append(line)


def record(text: str, level: int = logging.INFO) -> logging.LogRecord:
    """Return a line to log."""
    return logging.LogRecord("bridgecore", level, "", 0, text, None, None)


def test_lines_are_written_in_their_order() -> None:
    """All of them, before the handler is closed."""
    reader = Reader()
    reader.gate.set()
    handler = Backlog(reader.write)
    for number in range(100):
        handler.handle(record(f"line {number}"))
    handler.close()
    assert reader.read == [b"line %d\n" % number for number in range(100)]


def test_a_reader_that_does_not_read_costs_lines_and_nothing_else() -> None:
    """Who logs goes on; half of the room is kept for warnings; what was lost is counted and told."""
    reader = Reader()
    handler = Backlog(reader.write, max_bytes=80)
    handler.handle(record("123456789"))
    reader.asked.acquire()  # the thread is at the first line, and gets nowhere
    for _ in range(5):
        handler.handle(record("123456789"))
    assert handler.dropped == 2
    for _ in range(5):
        handler.handle(record("987654321", logging.WARNING))
    assert handler.dropped == 3
    with capture_logs() as logs:
        reader.gate.set()
        handler.close()
    assert reader.read == [b"123456789\n"] * 4 + [b"987654321\n"] * 4
    assert [(line["event"], line["count"]) for line in logs] == [("log_lines_dropped", 3)]


def test_the_end_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for ever."""
    monkeypatch.setattr(backlog, "CLOSE_S", 0.01)
    reader = Reader()
    handler = Backlog(reader.write)
    handler.handle(record("a"))
    handler.close()
    assert not reader.read
    reader.gate.set()
    handler._thread.join()  # pyright: ignore[reportPrivateUsage]


def test_what_cannot_be_logged_does_not_fail_who_logs() -> None:
    """Neither a line that cannot be formatted nor a reader that is gone."""

    def gone(_line: bytes) -> None:
        raise BrokenPipeError

    handler = Backlog(gone)
    handler.handle(logging.LogRecord("bridgecore", logging.INFO, "", 0, "%d", ("no number",), None))
    handler.handle(record("a lone \ud800"))
    with capture_logs():
        handler.close()
    assert handler.dropped == 2
