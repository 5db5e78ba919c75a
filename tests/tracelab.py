"""A tracer that remembers what it was told."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import pytest
from opentelemetry.trace import Status

from bridgeserver import tracing


class Span:
    """One span."""

    def __init__(self, tracer: "Tracer", name: str, attributes: Mapping[str, Any]) -> None:
        self.name = name
        self.attributes = dict(attributes)
        self._tracer = tracer

    def set_attribute(self, name: str, value: Any) -> None:
        """Note one more attribute."""
        self.attributes[name] = value

    def set_status(self, status: Status) -> None:
        """Note a failure."""
        self._tracer.failures[self.name] = status.description or ""


class Tracer:
    """What `bridgeserver.tracing` opens its spans with, in a test."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self.failures: dict[str, str] = {}
        """Why spans failed, by their names."""

    @classmethod
    def install(cls, monkeypatch: pytest.MonkeyPatch) -> Self:
        """Return one that sees all spans from now on."""
        tracer = cls()
        monkeypatch.setattr(tracing, "TRACER", tracer)
        return tracer

    def spans(self) -> dict[str, dict[str, Any]]:
        """Return the attributes of spans by their names; no two may be alike."""
        assert len({span.name for span in self._spans}) == len(self._spans)
        return {span.name: span.attributes for span in self._spans}

    @contextmanager
    def start_as_current_span(self, name: str, *, attributes: Mapping[str, Any]) -> Generator[Span]:
        """Open one."""
        span = Span(self, name, attributes)
        self._spans.append(span)
        yield span
