"""The spans of one request that is sampled: what they are called, what they say, and when they end.

A request that is not sampled has no `Trace` and no span. The names, and the attributes without a dot, are those of the
reference; the others follow the semantic conventions of OpenTelemetry for HTTP and generative AI.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from bridgeserver.records import TokenUsage

if TYPE_CHECKING:
    from bridgeserver.errors import BridgeError

Value = str | int | bool
Attributes = Mapping[str, Value]

PROVIDER_NAMES = {"bedrock": "aws.bedrock"}
"""What the conventions call a type of provider, where it is not its name here."""

CURRENT: ContextVar["Trace | None"] = ContextVar("trace", default=None)
"""The trace of the request that this task works for, if it is sampled."""


class Traced:
    """A span that may be none."""

    __slots__ = ("_span", "has_failed")

    def __init__(self, span: Span | None) -> None:
        self._span = span
        self.has_failed = False

    def set(self, name: str, value: Value) -> None:
        """Say more of it."""
        if self._span is not None:
            self._span.set_attribute(name, value)

    def event(self, name: str) -> None:
        """Say that something happened in it."""
        if self._span is not None:
            self._span.add_event(name)

    def fail(self, reason: str) -> None:
        """Say that what it is about has failed."""
        self.has_failed = True
        if self._span is not None:
            self._span.set_status(Status(StatusCode.ERROR, reason))


_NOT_TRACED = Traced(None)


def is_traced() -> bool:
    """Whether this task works for a request that is sampled."""
    return CURRENT.get() is not None


@contextmanager
def span(name: str, attributes: Attributes) -> Generator[Traced]:
    """Be in a span of that name, if the request that this task works for is sampled and goes on."""
    trace = CURRENT.get()
    if trace is None or trace.is_over:
        yield _NOT_TRACED
        return
    with trace.inside(name, attributes) as found:
        traced = Traced(found)
        try:
            yield traced
        except Exception as error:
            if not traced.has_failed:
                traced.fail(type(error).__name__)  # its text may hold what nobody should read
            raise


class Trace:
    """The spans of one request, from its beginning to `end`."""

    def __init__(self, tracer: Tracer, name: str, parent: Context | None, http: Attributes, about: Attributes) -> None:
        self._tracer = tracer
        self._about = dict(about)
        self._root = tracer.start_span(name, parent, SpanKind.SERVER, {**http, **about})
        self._creation: Span | None = None
        self._process: Span | None = None
        self._upstream: Span | None = None
        self._tokens: dict[str, int] = {}
        self._is_stream = False
        self._has_failed = False
        self.is_over = False
        """Whether the request has ended; what goes on after it in the background is not traced."""

    @property
    def ids(self) -> dict[str, str]:
        """Where it is found: what log lines say of it."""
        context = self._root.get_span_context()
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}

    @property
    def line(self) -> bytes:
        """The line of a head that makes who reads it a part of this."""
        return _line(self._root)

    def create(self) -> None:
        """Begin with finding out what is asked for."""
        self._creation = self._open("Intercept.CreateInterceptor")

    def created(self, about: Attributes, *, is_stream: bool) -> None:
        """Take what all spans say from now on, and those that are open too: it is known what is asked for."""
        about = _plain(about)
        self._about |= about
        self._is_stream = is_stream
        self._root.set_attributes(about)
        if self._creation is not None:
            self._creation.set_attributes(about)
            self._creation.end()
            self._creation = None

    def process(self, attributes: Attributes) -> None:
        """Begin to serve what is asked for."""
        self._process = self._open("Intercept.ProcessRequest", attributes=attributes)

    def send(self, attributes: Attributes) -> bytes:
        """Begin to ask the provider, once more perhaps, and return the line of the head that says so."""
        self._end_upstream()
        self._upstream = self._open("Intercept.ProcessRequest.Upstream", SpanKind.CLIENT, attributes)
        return _line(self._upstream)

    def answered(self, status: int) -> None:
        """Note the head of what the provider answers; it is all that is waited for where a stream was asked for."""
        if self._upstream is None:
            return
        self._upstream.set_attribute("http.response.status_code", status)
        if self._is_stream:
            self._end_upstream()
        elif status >= 400:
            _fail(self._upstream, f"the provider answered {status}", str(status))

    def count(self, usage: TokenUsage) -> None:
        """Note what one of the provider's answers cost, which adds to those before it."""
        cached = {"cache_read": usage.cache_read_tokens, "cache_creation": usage.cache_write_tokens}
        counts = {
            "gen_ai.usage.input_tokens": usage.input_tokens + sum(cached.values()),
            "gen_ai.usage.output_tokens": usage.output_tokens,
            **{f"gen_ai.usage.{kind}.input_tokens": count for kind, count in cached.items() if count},
        }
        for name, count in counts.items():
            self._tokens[name] = self._tokens.get(name, 0) + count
        if self._process is None:
            return
        self._process.set_attributes(self._tokens)
        if usage.response_id:
            self._process.set_attribute("gen_ai.response.id", _utf8(usage.response_id))
        if usage.stop_reason:
            self._process.set_attribute("gen_ai.response.finish_reasons", [_utf8(usage.stop_reason)])

    def processed(self, reason: str | None, error_type: str | None, attempts: int) -> None:
        """End with serving it, and with all that belongs to that; *reason* is why it failed."""
        if self._upstream is not None and reason is not None and not self._is_stream:
            _fail(self._upstream, reason, error_type)
        self._end_upstream()
        if self._process is not None:
            if attempts > 1:
                self._process.set_attribute("http.request.resend_count", attempts - 1)
            if reason is not None:
                _fail(self._process, f"interception failed: {reason}", error_type)
            self._process.end()
            self._process = None
        if reason is not None:
            self._fail_root(f"interception failed: {reason}", error_type)

    def fail(self, error: "BridgeError") -> None:
        """Note why the client is refused."""
        if self._creation is not None:
            _fail(self._creation, str(error), error.error_type)
        self._fail_root(str(error), error.error_type)

    def end(self, status: int) -> None:
        """End it; the client was sent that *status*, or nothing (0)."""
        if self.is_over:
            return
        self.is_over = True
        for inner in (self._upstream, self._process, self._creation):
            if inner is not None:
                inner.end()
        if status:
            self._root.set_attribute("http.response.status_code", status)
        self._root.end()

    def record(self, name: str, *, is_outermost: bool = False) -> Span:
        """Return a span of writing something down, which the caller ends."""
        return self._open(name, is_outermost=is_outermost)

    @contextmanager
    def inside(self, name: str, attributes: Attributes) -> Generator[Span]:
        """Be in a span of that name, inside of the one that this task is in."""
        if name.startswith("Intercept"):
            attributes = {**self._about, **_plain(attributes)}
        context = None if get_current_span().is_recording() else set_span_in_context(self._process or self._root)
        with self._tracer.start_as_current_span(
            name, context, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as found:
            yield found

    def _open(
        self,
        name: str,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        *,
        is_outermost: bool = False,
    ) -> Span:
        parent = self._root if is_outermost else self._process or self._root
        return self._tracer.start_span(name, set_span_in_context(parent), kind, self._about | _plain(attributes or {}))

    def _end_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.end()
            self._upstream = None

    def _fail_root(self, reason: str, error_type: str | None) -> None:
        if not self._has_failed:
            self._has_failed = True
            _fail(self._root, reason, error_type)


def gen_ai(provider_type: str, model: str, session_id: str | None, *, is_stream: bool) -> dict[str, Value]:
    """Return what the conventions for generative AI want to know of a request."""
    about: dict[str, Value] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": PROVIDER_NAMES.get(provider_type, provider_type),
        "gen_ai.request.model": model,
        "gen_ai.request.stream": is_stream,
    }
    return about if session_id is None else {**about, "gen_ai.conversation.id": session_id}


def _fail(span: Span, reason: str, error_type: str | None) -> None:
    span.set_status(Status(StatusCode.ERROR, _utf8(reason)))
    if error_type is not None:
        span.set_attribute("error.type", error_type)


def _plain(attributes: Attributes) -> dict[str, Value]:
    return {name: _utf8(value) if isinstance(value, str) else value for name, value in attributes.items()}


def _utf8(text: str) -> str:
    """Return *text* without lone surrogates, with one of which nothing of its batch could be sent."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _line(span: Span) -> bytes:
    context = span.get_span_context()
    return b"traceparent: 00-%032x-%016x-01\r\n" % (context.trace_id, context.span_id)
