"""Accounting: reads along with one response and never changes, delays or fails it.

The one thing that it does take out of a stream is the usage chunk that the gateway itself had asked for.
"""

import zlib
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
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Account:
    """Reads along with the response whose head is *status* and *headers*, for *tap*.

    With *drop_extra_usage* the chunk that carries nothing but usage is taken out of the stream. *budget* is what all
    responses share; `finish` gives back what this one took of it.
    """

    def __init__(self, tap: Tap, status: int, headers: Pairs, budget: Budget, *, drop_extra_usage: bool) -> None:
        fields = by_name(headers)
        encoding = fields.get(b"content-encoding", b"identity").strip().lower()
        self.tap = tap
        self.is_stream = status < 300 and fields.get(b"content-type", b"").startswith(b"text/event-stream")
        self.is_partial = False
        """Whether something could not be read."""
        self._status = status
        self._scanner = Scanner(interest=tap.interest)
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._body_limit = BODY_BYTES if status < 300 else ERROR_BODY_BYTES
        self._decoder: _Decoder | None = None
        if encoding in {b"gzip", b"deflate"}:
            self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        elif encoding != b"identity":
            self.is_partial = True
        self.edits = drop_extra_usage and self.is_stream and encoding == b"identity"
        """Whether the body may come out shorter than it went in."""
        self._held = bytearray()
        self._finished = False
        self._budget = budget
        self._counted = 0

    @property
    def is_between_events(self) -> bool:
        """Whether an event of our own could follow what was relayed: plain text, and not in the middle of one."""
        if not self.is_stream or self._decoder is not None or self.is_partial:
            return False
        return self.edits or self._scanner.is_between_events

    def feed(self, chunk: bytes) -> tuple[bytes, list[Finding]]:
        """Take bytes of the body; return what to relay now, and what they completed."""
        if self.is_stream:
            return self._feed_stream(chunk)
        self._keep(self._decode(chunk))
        return chunk, []

    def finish(self) -> tuple[bytes, list[Finding]]:
        """Take note of the end of the body; return what is still to be relayed, and what it completed."""
        if self._finished:
            return b"", []
        self._finished = True
        self._count_held(0)
        held = self._take_held()
        findings: list[Finding] = []
        try:
            if self.is_stream:
                for event in self._scanner.finish():
                    findings += self.tap.event(event.name, event.data)
            elif self._status < 300 and not self.is_partial:
                findings = self.tap.body(b"".join(self._body))
        except Exception as exc:
            self._give_up(exc)
        self.is_partial = self.is_partial or self._scanner.oversized > 0
        return held, findings

    def failure(self) -> Failure | None:
        """Return what went wrong according to the provider, once the body has ended."""
        if self._status >= 300:
            return classify(self._status, b"".join(self._body))
        if self.tap.failure is not None:
            return self.tap.failure
        if not self.tap.complete and not self.is_partial:
            what = "stream ended before its last event" if self.is_stream else "answer is not what its protocol says"
            return Failure("upstream_broken", f"the provider's {what}")
        return None

    def _feed_stream(self, chunk: bytes) -> tuple[bytes, list[Finding]]:
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

    def _decode(self, chunk: bytes) -> bytes:
        if self._decoder is None:
            return chunk
        try:
            return self._decoder.decompress(chunk, BODY_BYTES)
        except zlib.error:
            self.is_partial = True
            return b""

    def _keep(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes <= self._body_limit and self._count_held(self._body_bytes):
            self._body.append(data)
        elif self._status < 300:
            self._let_go()

    def _count_held(self, held_bytes: int) -> bool:
        """Count what this response holds from now on, and return whether there is room for it."""
        counted = max(0, held_bytes - FREE_BYTES)
        if counted > self._counted and not self._budget.try_take(counted - self._counted):
            return False
        if counted < self._counted:
            self._budget.give_back(self._counted - counted)
        self._counted = counted
        return True

    def _let_go(self) -> None:
        """Read along no longer, and hold nothing more."""
        self.is_partial = True
        self._body.clear()
        self._body_limit = 0
        self._scanner = Scanner()
        self._count_held(0)

    def _give_up(self, error: Exception) -> None:
        log.error("accounting_failed", effect="the response is relayed, and recorded as partial", exc_info=error)
        self.is_partial = True
