"""Spans for those who watch: without a tracer provider they cost next to nothing."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import ProxyTracerProvider, Span, Status, StatusCode

TRACER: Final = trace.get_tracer("bridgecore")


class Traced:
    """A span that may be none."""

    __slots__ = ("_span",)

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def set(self, name: str, value: str | int) -> None:
        """Say more of it."""
        if self._span is not None:
            self._span.set_attribute(name, value)

    def fail(self, reason: str) -> None:
        """Say that what it is about has failed."""
        if self._span is not None:
            self._span.set_status(Status(StatusCode.ERROR, reason))


_NOT_TRACED = Traced(None)


def is_traced() -> bool:
    """Whether anybody would see a span; one that nobody sees costs more than most of what it is about."""
    return not (isinstance(TRACER, trace.ProxyTracer) and isinstance(trace.get_tracer_provider(), ProxyTracerProvider))


@contextmanager
def span(name: str, attributes: Mapping[str, str]) -> Generator[Traced]:
    """Be in a span of that name, if anybody sees it."""
    if not is_traced():
        yield _NOT_TRACED
        return
    with TRACER.start_as_current_span(name, attributes=attributes) as found:
        yield Traced(found)
