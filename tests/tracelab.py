"""Spans that are kept in memory, and what a test asks of them."""

from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Self

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bridgeserver import spans
from bridgeserver.config import TracingConfig
from bridgeserver.exporting import trace_into
from bridgeserver.spans import Trace
from bridgeserver.tracing import Tracing
from gatelab import GateLab

REFERENCE = {"request_path", "interception_id", "user_id", "provider", "model", "streaming"}
"""What all spans of an interception say."""


class Spans:
    """The spans that ended; made for a gateway, or with `install` for whatever a test does."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()

    @classmethod
    def of(cls, lab: GateLab, **options: Any) -> Self:
        """Return those of a gateway from now on."""
        kept = cls()
        lab.worker.tracing = kept.tracing(**options)
        return kept

    @classmethod
    def install(cls, monkeypatch: pytest.MonkeyPatch) -> Self:
        """Return those of a sampled request that everything belongs to from now on."""
        kept = cls()
        trace = kept.trace()
        monkeypatch.setattr(spans, "CURRENT", ContextVar("test", default=trace))
        return kept

    def tracing(self, **options: Any) -> Tracing:
        """Return what traces requests."""
        return trace_into(SimpleSpanProcessor(self._exporter), TracingConfig(**options))

    def trace(self) -> Trace:
        """Return the trace of a request that is sampled."""
        return Trace(self.tracing().tracer, "Test", None, {}, {})

    def __iter__(self) -> Iterator[ReadableSpan]:
        return iter(self._exporter.get_finished_spans())

    def clear(self) -> None:
        """Forget them."""
        self._exporter.clear()

    @property
    def names(self) -> list[str]:
        """Return their names, sorted."""
        return sorted(span.name for span in self)

    def one(self, name: str) -> ReadableSpan:
        """Return the one of that name."""
        (span,) = (span for span in self if span.name == name)
        return span

    def attributes(self) -> dict[str, dict[str, Any]]:
        """Return their attributes by their names; no two may be alike."""
        assert len(set(self.names)) == len(self.names)
        return {span.name: dict(span.attributes or {}) for span in self}

    @property
    def failures(self) -> dict[str, str]:
        """Return why spans failed, by their names."""
        return {span.name: span.status.description or "" for span in self if not span.status.is_ok}
