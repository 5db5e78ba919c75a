"""Accounting: reads along with one response and never changes, delays or fails it.

The one thing that it does take out of a stream is the usage chunk that the gateway itself had asked for.
"""

import zlib
from abc import ABC, abstractmethod
from typing import Protocol as Interface

import structlog

from bridgecore import Scanner, by_name
from bridgeserver.headers import Pairs
from bridgeserver.limits import Budget
from bridgeserver.protocols import Failure, Finding, Tap
from bridgeserver.protocols.failure import classify

log = structlog.get_logger("bridgecore")

BODY_BYTES = 32 << 20
"""What is kept of a body that is not a stream; a longer one is relayed and accounted for as partial."""

ERROR_BODY_BYTES = 64 << 10
HELD_BYTES = 4 << 20

ALL_BYTES = 64 << 20
"""What all responses of a worker may hold together; one that finds no room is accounted for as partial."""

FREE_BYTES = 16 << 10
"""What each response may hold without being counted, which is more than most ever do."""


class _Decoder(Interface):
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def read_along(tap: Tap, status: int, headers: Pairs, budget: Budget, *, drop_extra_usage: bool) -> "Account":
    """Return what reads along with the response whose head is *status* and *headers*, for *tap*.

    With *drop_extra_usage* the chunk that carries nothing but usage is taken out of the stream. *budget* is what all
    responses share; `finish` gives back what this one took of it.
    """
    fields = by_name(headers)
    encoding = fields.get(b"content-encoding")
    if encoding is not None:
        encoding = encoding.strip().lower()
    is_stream = status < 300 and fields.get(b"content-type", b"").startswith(b"text/event-stream")
    kind = StreamAccount if is_stream else BodyAccount
    return kind(tap, status, None if encoding == b"identity" else encoding, budget, edits=drop_extra_usage)


class Account(ABC):
    """What the two kinds of responses have in common."""

    is_stream: bool
    edits = False
    """Whether the body may come out shorter than it went in."""

    def __init__(self, tap: Tap, status: int, encoding: bytes | None, budget: Budget) -> None:
        self.tap = tap
        self.is_partial = False
        """Whether something could not be read."""
        self._is_garbled = False
        self._status = status
        self._decoder: _Decoder | None = None
        self._is_gzip = False
        if encoding is not None:
            self._prepare(encoding)
        self._is_finished = False
        self._budget = budget
        self._counted = 0

    @property
    def is_between_events(self) -> bool:
        """Whether an event of our own could follow what was relayed: plain text, and not in the middle of one."""
        return False

    @abstractmethod
    def feed(self, chunk: bytes) -> tuple[bytes, list[Finding]]:
        """Take bytes of the body; return what to relay now, and what they completed."""

    def finish(self) -> tuple[bytes, list[Finding]]:
        """Take note of the end of the body; return what is still to be relayed, and what it completed."""
        if self._is_finished:
            return b"", []
        self._is_finished = True
        self._count_held(0)
        try:
            return self._finish()
        except Exception as exc:
            self._give_up(exc)
            return b"", []

    def failure(self) -> Failure | None:
        """Return what went wrong according to the provider, once the body has ended."""
        if self.tap.failure is not None:
            return self.tap.failure
        if self._is_garbled:
            return Failure("upstream_broken", "the provider's answer is not gzip, which it says it is")
        if not self.tap.complete and not self.is_partial:
            what = "stream ended before its last event" if self.is_stream else "answer is not what its protocol says"
            return Failure("upstream_broken", f"the provider's {what}")
        return None

    @abstractmethod
    def _finish(self) -> tuple[bytes, list[Finding]]: ...

    def _prepare(self, encoding: bytes) -> None:
        self._is_gzip = encoding == b"gzip"
        if self._is_gzip or encoding == b"deflate":
            self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        else:
            self.is_partial = True

    def _decode(self, chunk: bytes) -> bytes:
        if self._decoder is None:
            return chunk
        try:
            data = self._decoder.decompress(chunk, BODY_BYTES)
            while self._decoder.unused_data and len(data) < BODY_BYTES:  # a body may be several streams in a row
                rest = self._decoder.unused_data
                self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
                data += self._decoder.decompress(rest, BODY_BYTES)
        except zlib.error:
            self.is_partial = True
            # What is called deflate has two forms, of which clients read both and this reads one.
            self._is_garbled = self._is_gzip
            return b""
        else:
            return data

    def _count_held(self, held_bytes: int) -> bool:
        """Count what this response holds from now on, and return whether there is room for it."""
        counted = held_bytes - FREE_BYTES if held_bytes > FREE_BYTES else 0
        if counted > self._counted and not self._budget.try_take(counted - self._counted):
            return False
        if counted < self._counted:
            self._budget.give_back(self._counted - counted)
        self._counted = counted
        return True

    def _give_up(self, error: Exception) -> None:
        log.error("accounting_failed", effect="the response is relayed, and recorded as partial", exc_info=error)
        self.is_partial = True


class BodyAccount(Account):
    """Reads along with a response that is one document."""

    is_stream = False

    def __init__(self, tap: Tap, status: int, encoding: bytes | None, budget: Budget, *, edits: bool) -> None:
        del edits  # only a stream has a chunk of its own for usage
        super().__init__(tap, status, encoding, budget)
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._limit = BODY_BYTES if status < 300 else ERROR_BODY_BYTES

    def feed(self, chunk: bytes) -> tuple[bytes, list[Finding]]:
        data = self._decode(chunk)
        self._body_bytes += len(data)
        if self._body_bytes <= self._limit and self._count_held(self._body_bytes):
            self._body.append(data)
        elif self._status < 300:
            self.is_partial = True
            self._body.clear()
            self._limit = 0
            self._count_held(0)
        return chunk, []

    def failure(self) -> Failure | None:
        return classify(self._status, b"".join(self._body)) if self._status >= 300 else super().failure()

    def _finish(self) -> tuple[bytes, list[Finding]]:
        is_read = self._status < 300 and not self.is_partial
        return b"", self.tap.body(b"".join(self._body)) if is_read else []


class StreamAccount(Account):
    """Reads along with a stream of events."""

    is_stream = True

    def __init__(self, tap: Tap, status: int, encoding: bytes | None, budget: Budget, *, edits: bool) -> None:
        super().__init__(tap, status, encoding, budget)
        self.edits = edits and encoding is None
        self._scanner = Scanner(interest=tap.interest)
        self._held = bytearray()

    @property
    def is_between_events(self) -> bool:
        if self._decoder is not None or self.is_partial:
            return False
        return self.edits or self._scanner.is_between_events

    def feed(self, chunk: bytes) -> tuple[bytes, list[Finding]]:
        findings: list[Finding] = []
        if self.edits:
            return self._feed_edited(chunk, findings), findings
        if not self.is_partial:
            try:
                for event in self._scanner.feed(self._decode(chunk)):
                    if found := self.tap.event(event.name, event.data):
                        findings += found
            except Exception as exc:
                self._give_up(exc)
            if not self._count_held(self._scanner.position - self._scanner.boundary):
                self._let_go()
        return chunk, findings

    def _finish(self) -> tuple[bytes, list[Finding]]:
        findings: list[Finding] = []
        try:
            for event in self._scanner.finish():
                findings += self.tap.event(event.name, event.data)
        except Exception as exc:
            self._give_up(exc)
        self.is_partial = self.is_partial or self._scanner.oversized > 0
        return self._take_held(), findings

    def _feed_edited(self, chunk: bytes, findings: list[Finding]) -> bytes:
        """Return the whole events that are here without the extra usage chunk; what is unfinished is held."""
        self._held += chunk
        if self.is_partial:
            return self._take_held()
        first = self._scanner.position + len(chunk) - len(self._held)  # stream offset of the first held byte
        relayed = bytearray()
        done = first
        try:
            for event in self._scanner.feed(chunk):
                findings += self.tap.event(event.name, event.data)
                if self.tap.is_extra_usage(event.data) and event.start >= done:
                    relayed += self._held[done - first : event.start - first]
                    done = event.end
        except Exception as exc:
            self._give_up(exc)
        boundary = self._scanner.boundary
        if len(self._held) > HELD_BYTES or self.is_partial:
            boundary = first + len(self._held)
        relayed += self._held[done - first : boundary - first]
        del self._held[: max(boundary, done) - first]
        if not self._count_held(2 * len(self._held)):
            self._let_go()
            relayed += self._take_held()
        return bytes(relayed)

    def _take_held(self) -> bytes:
        held = bytes(self._held)
        self._held.clear()
        return held

    def _let_go(self) -> None:
        """Read along no longer, and hold nothing more."""
        self.is_partial = True
        self._scanner = Scanner()
        self._count_held(0)
