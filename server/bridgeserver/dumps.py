"""Requests and answers as files, to see what a provider was sent and what it said; off unless a provider asks for it.

For debugging, and so never in the way of a request: a thread of its own writes, what it cannot keep up with is left
out, and what fails is logged. Credentials are masked; prompts and answers are not, so the files are their owner's only.
"""

import os
import re
import secrets
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import time_ns
from typing import Self

import msgspec
import structlog

from bridgecore import write_lines
from bridgeserver.headers import Pairs
from bridgeserver.relay import Watch
from bridgeserver.secret import hint

log = structlog.get_logger("bridgecore")

WAITING_BYTES = 32 << 20
"""What may wait for the disk; beyond it dumps are cut."""

NAME_CHARACTERS = 100

SECRET_REQUEST_FIELDS = frozenset(
    {
        b"authorization",
        b"x-api-key",
        b"api-key",
        b"x-auth-token",
        b"cookie",
        b"proxy-authorization",
        b"x-amz-security-token",
    }
)
SECRET_ANSWER_FIELDS = frozenset({b"set-cookie", b"www-authenticate", b"proxy-authenticate"})

CUT = b"\n[the rest was left out]\n"


class Dumps:
    """The dumps of one worker, below *folder*."""

    def __init__(self, folder: Path, *, max_file_bytes: int, max_bytes: int) -> None:
        self._folder = folder
        self._max_file_bytes = max_file_bytes
        self._max_bytes = max_bytes
        self._used: int | None = None
        self._waiting = 0
        self._is_failing = False
        self._lock = threading.Lock()
        self._writer: ThreadPoolExecutor | None = None

    def bridged(self, provider: str, model: str, interception_id: str) -> "Dump":
        """Return the dump of an interception."""
        return self._dump(self._folder / provider / _file_name(model or "no-model"), interception_id)

    def passed_through(self, provider: str, path: str) -> "Dump":
        """Return the dump of a request that is not recorded."""
        return self._dump(self._folder / provider / "passthrough", f"{_file_name(path)}-{secrets.token_hex(2)}")

    def close(self) -> None:
        """Wait for what was begun to be written."""
        if self._writer is not None:
            self._writer.shutdown()

    def write(self, path: Path, data: bytes) -> bool:
        """Have *data* appended to a file soon; return False if that is too much for the disk."""
        with self._lock:
            if self._waiting + len(data) > WAITING_BYTES:
                return False
            self._waiting += len(data)
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="dumps")
        self._writer.submit(self._write, path, data)
        return True

    def _dump(self, folder: Path, name: str) -> "Dump":
        return Dump(self, folder / f"{time_ns() // 1_000_000}-{name}", self._max_file_bytes)

    def _write(self, path: Path, data: bytes) -> None:
        try:
            self._append(path, data)
            self._is_failing = False
        except OSError as exc:
            if not self._is_failing:
                log.warning("dump_failed", path=str(path), reason=exc.strerror or str(exc))
            self._is_failing = True
        finally:
            with self._lock:
                self._waiting -= len(data)

    def _append(self, path: Path, data: bytes) -> None:
        if self._used is None:
            self._used = sum(found.stat().st_size for found in self._folder.rglob("*.txt"))
        if self._used + len(data) > self._max_bytes:
            raise OSError(0, f"the dumps fill their {self._max_bytes} bytes: delete some, or raise dumps.max_bytes")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
        self._used += len(data)


class Dump:
    """The files of one request and its answer."""

    def __init__(self, dumps: Dumps, stem: Path, max_bytes: int) -> None:
        self._dumps = dumps
        self._stem = stem
        self._max_bytes = max_bytes
        self._left = max_bytes
        self._has_answer = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            self.failed(str(error) or type(error).__name__)

    def request(self, head: bytes, body: bytes, secret_fields: Collection[bytes], secret_query: bytes) -> None:
        """Keep a request as it is first sent, JSON laid out for people.

        Fields of those names are masked beside the usual ones, and the secret part of the query is left out.
        """
        line, _, lines = head.removesuffix(b"\r\n\r\n").partition(b"\r\n")
        pairs: Pairs = []
        for field in lines.split(b"\r\n"):
            name, _, value = field.partition(b": ")
            pairs.append((name.lower(), value))
        shown = _laid_out(body)
        pairs = [(name, b"%d" % len(shown) if name == b"content-length" else value) for name, value in pairs]
        if secret_query:
            line = line.replace(secret_query, b"...", 1)
        text = line + b"\r\n" + _fields(pairs, SECRET_REQUEST_FIELDS | set(secret_fields)) + b"\r\n" + shown + b"\n"
        self._dumps.write(self._file("req"), text[: self._max_bytes] + (CUT if len(text) > self._max_bytes else b""))

    def answer(self, status: int, fields: Pairs) -> None:
        """Keep the head of the answer."""
        self._has_answer = True
        self.body(b"HTTP/1.1 %d\r\n%b\r\n" % (status, _fields(fields, SECRET_ANSWER_FIELDS)))

    def body(self, chunk: bytes) -> None:
        """Keep the next bytes of the answer's body, as they came."""
        if self._left <= 0 or not chunk:
            return
        kept = chunk[: self._left]
        self._left -= len(chunk)
        if self._left < 0:
            kept += CUT
        if not self._dumps.write(self._file("resp"), kept):
            self._left = 0

    def watching(self, watch: Watch) -> Watch:
        """Return a watch that keeps what *watch* is given."""

        def keep(chunk: bytes, is_last: bool) -> bytes:
            self.body(chunk)
            return watch(chunk, is_last)

        return keep

    def failed(self, reason: str) -> None:
        """Keep why there was no answer, or why it broke off."""
        if self._has_answer:
            self.body(f"\n[{reason}]\n".encode())
        else:
            self._dumps.write(self._file("req_error"), f"{reason}\n".encode())

    def _file(self, kind: str) -> Path:
        return self._stem.with_name(f"{self._stem.name}.{kind}.txt")


def _fields(pairs: Pairs, secret_fields: Collection[bytes]) -> bytes:
    shown = [(name.title(), _masked(value) if name in secret_fields else value) for name, value in sorted(pairs)]
    return write_lines(shown)


def _masked(value: bytes) -> bytes:
    return hint(value.decode("latin-1")).encode("latin-1")


def _laid_out(body: bytes) -> bytes:
    try:
        return msgspec.json.format(body, indent=2) if body else body
    except (ValueError, RecursionError):
        return body


def _file_name(text: str) -> str:
    """Return a model or a path as a part of a file name, which a client must not be able to place elsewhere."""
    return re.sub(r"[^A-Za-z0-9._@:-]", "-", text.removeprefix("/"))[:NAME_CHARACTERS].lstrip(".") or "-"
