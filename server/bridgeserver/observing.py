"""The records of a sampled request on their way to the journal, each in a span of its own."""

from collections.abc import Sequence

from opentelemetry.trace import Span, Status, StatusCode

from bridgeserver.errors import NotRecordable
from bridgeserver.journal import Sink, Then
from bridgeserver.records import (
    AnyRecord,
    Interception,
    InterceptionEnd,
    ModelThought,
    Record,
    TokenUsage,
    ToolUse,
    UserPrompt,
)
from bridgeserver.spans import Trace

NAMES: dict[type[Record], str] = {
    Interception: "Intercept.RecordInterception",
    UserPrompt: "Intercept.RecordPromptUsage",
    TokenUsage: "Intercept.RecordTokenUsage",
    ToolUse: "Intercept.RecordToolUsage",
    ModelThought: "Intercept.RecordModelThought",
    InterceptionEnd: "Intercept.RecordInterceptionEnded",
}
OUTERMOST = (Interception, InterceptionEnd)


class TracedRecords:
    """Passes records on, and tells the trace of them."""

    def __init__(self, sink: Sink, trace: Trace) -> None:
        self._sink = sink
        self._trace = trace

    def begin(self, records: Sequence[AnyRecord], then: Then) -> None:
        """Pass on an interception and its prompt; their spans end when they are kept."""
        spans = [self._span(record) for record in records]

        def kept(failure: NotRecordable | None) -> object:
            _end(spans, failure)
            return then(failure)

        try:
            self._sink.begin(records, kept)
        except NotRecordable as error:
            _end(spans, error)
            raise

    def append(self, record: AnyRecord) -> None:
        """Pass on a record of an open interception."""
        span = self._span(record)
        self._sink.append(record)
        span.end()

    def end(self, records: Sequence[AnyRecord]) -> None:
        """Pass on the last ones, and end what they are about."""
        spans = [self._span(record) for record in records]
        self._sink.end(records)
        _end(spans, None)
        for record in records:
            if isinstance(record, InterceptionEnd):
                reason = None if record.status == "completed" else record.error_message or record.status
                self._trace.processed(reason, record.error_type, record.attempts)

    def _span(self, record: AnyRecord) -> Span:
        if isinstance(record, TokenUsage):
            self._trace.count(record)
        return self._trace.record(NAMES[type(record)], is_outermost=isinstance(record, OUTERMOST))


def _end(spans: Sequence[Span], failure: NotRecordable | None) -> None:
    for span in spans:
        if failure is not None:
            span.set_status(Status(StatusCode.ERROR, str(failure)))
        span.end()
