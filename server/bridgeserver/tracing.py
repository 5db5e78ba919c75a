"""Which requests are traced, and the W3C trace context that comes in and goes out.

It is decided once, at a request's beginning. One that is not sampled has no spans, not even empty ones: all that it
costs is reading one header and writing one.
"""

import re
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

from bridgecore import Request
from bridgeserver.headers import Headers, Pairs
from bridgeserver.identity import Caller
from bridgeserver.providers import Provider, Route
from bridgeserver.spans import CURRENT, Trace
from bridgeserver.tokens import redact

CONTEXT = frozenset({b"traceparent", b"tracestate"})

# https://www.w3.org/TR/trace-context/#traceparent-header: only versions after the first may add to it.
_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Parent(NamedTuple):
    """The span of the client that a request comes from."""

    trace_id: bytes
    span_id: bytes
    is_sampled: bool


class Begun(NamedTuple):
    """What a request has of tracing."""

    line: bytes
    """The `traceparent` of its head, unless the trace has a span for each head."""
    fields: Pairs | None
    """The client's fields, where something of them does not travel on."""
    trace: Trace | None
    """Its spans, if it is sampled."""


UNTRACED = Begun(b"", None, None)


class Tracing:
    """Decides which requests of a worker are traced."""

    def __init__(
        self,
        tracer: Tracer,
        *,
        sample_ratio: float,
        trust_parent: bool,
        on_close: Callable[[], None] = lambda: None,
        dropped: Callable[[], int] = lambda: 0,
        random: Random | None = None,
    ) -> None:
        self.tracer = tracer
        self._sample_ratio = sample_ratio
        self._trust_parent = trust_parent
        self.close = on_close
        """Let go of what is behind it; blocks for a moment."""
        self._dropped = dropped
        self._random = random or Random()  # noqa: S311 - ids must be different, and may be guessed

    def begin(self, request: Request, caller: Caller, provider: Provider, route: Route) -> Begun:
        """Return what a request has of tracing, of which its client may have said something."""
        headers = request.headers
        parent = parent_of(headers)
        fields: Pairs | None = None
        if parent is not None:
            fields = [field for field in request.fields if field[0] != b"traceparent"]
        elif b"traceparent" in headers or b"tracestate" in headers:  # one is nothing without the other
            fields = [field for field in request.fields if field[0] not in CONTEXT]
        if not self.is_sampled(parent):
            return Begun(self._unsampled(parent), fields, None)
        trace = self._trace(request, _context(parent, headers), caller, provider, route)
        CURRENT.set(trace)
        return Begun(trace.line, fields, trace)

    @property
    def dropped(self) -> int:
        """Spans that nobody will see."""
        return self._dropped()

    def is_sampled(self, parent: Parent | None) -> bool:
        """Decide whether a request is sampled; asked again, it may be decided otherwise."""
        if parent is not None and self._trust_parent:
            return parent.is_sampled
        # Not by the trace id, as is usual: a client may choose one that is sampled.
        return self._random.random() < self._sample_ratio

    def _unsampled(self, parent: Parent | None) -> bytes:
        bits = self._random.getrandbits
        if parent is not None:
            return b"traceparent: 00-%b-%016x-00\r\n" % (parent.trace_id, bits(64) or 1)
        return b"traceparent: 00-%032x-%016x-00\r\n" % (bits(128) or 1, bits(64) or 1)

    def _trace(
        self, request: Request, context: Context | None, caller: Caller, provider: Provider, route: Route
    ) -> Trace:
        path = redact(request.path)
        http = {"http.request.method": request.method, "url.path": path}
        if route.protocol is None:
            passed = {
                "passthrough_url": route.path,
                "passthrough_method": request.method,
                "passthrough_upstream_url": provider.url(route.path),
            }
            return Trace(self.tracer, "Passthrough", context, http, passed)
        about = {"request_path": path, "user_id": caller.user_id, "provider": provider.name}
        trace = Trace(self.tracer, "Intercept", context, http, about)
        trace.create()
        return trace


def parent_of(headers: Headers) -> Parent | None:
    """Return what `traceparent` says, or None if there is none that can be read."""
    value = headers.get(b"traceparent")
    found = None if value is None else _TRACEPARENT.fullmatch(value)
    if found is None or (found[1] == b"00" and found[5] is not None):
        return None
    return Parent(found[2], found[3], is_sampled=int(found[4], 16) & 1 == 1)


def _context(parent: Parent | None, headers: Headers) -> Context | None:
    if parent is None:
        return None
    state = TraceState.from_header([headers.get(b"tracestate", b"").decode("latin-1")])
    remote = SpanContext(
        int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=TraceFlags(1), trace_state=state
    )
    return set_span_in_context(NonRecordingSpan(remote))
