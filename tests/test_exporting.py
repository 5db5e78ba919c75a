"""Spans on their way to a collector that takes them, and to one that does not."""

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from bridgeserver import exporting
from bridgeserver.config import TracingConfig
from bridgeserver.exporting import BATCH_SPANS, Outbox
from bridgeserver.secret import Secret
from bridgeserver.spans import Trace

SPAN = ReadableSpan("one")


class Told(NamedTuple):
    """What a collector was sent."""

    path: str
    key: str | None
    spans: ExportTraceServiceRequest


@contextmanager
def collector() -> Generator[tuple[str, list[Told]]]:
    """Run a collector, and return where it is and what it is told."""
    told: list[Told] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            told.append(Told(self.path, self.headers["x-key"], ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that it has there
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", told
        finally:
            server.shutdown()
            thread.join()


class Exporter(SpanExporter):
    """Takes spans when the gate is open, and says so or not."""

    def __init__(self, result: SpanExportResult = SpanExportResult.SUCCESS) -> None:
        self.result = result
        self.gate = threading.Event()
        self.asked = threading.Semaphore(0)
        self.is_over = False
        self.batches: list[int] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.release()
        self.gate.wait()
        self.batches.append(len(spans))
        return self.result

    def shutdown(self) -> None:
        self.is_over = True


@pytest.mark.parametrize("path", ["", "/", "/v1/traces"])
def test_spans_reach_the_collector(path: str) -> None:
    """With the headers that were configured, the service's name, and below the path that the protocol has."""
    with collector() as (url, told):
        config = TracingConfig(endpoint=url + path, headers={"X-Key": Secret("k1")}, service_name="gate")
        tracing = exporting.start(config)
        assert tracing is not None
        Trace(tracing.tracer, "Intercept", None, {}, {}).end(200)
        tracing.close()
    (request,) = told
    assert (request.path, request.key) == ("/v1/traces", "k1")
    (resource,) = request.spans.resource_spans
    assert {member.key: member.value.string_value for member in resource.resource.attributes}["service.name"] == "gate"
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == ["Intercept"]


def test_the_standard_switch_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """`OTEL_SDK_DISABLED` is known to those who run other services."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert exporting.start(TracingConfig(endpoint="http://127.0.0.1:9")) is None


def test_a_collector_that_hangs_costs_spans_and_nothing_else() -> None:
    """What it does not take waits up to a limit, and is dropped and counted beyond it."""
    exporter = Exporter()
    outbox = Outbox(exporter, capacity=BATCH_SPANS + 2, delay_s=600)
    for _ in range(BATCH_SPANS):
        outbox.on_end(SPAN)
    exporter.asked.acquire()  # the first batch is on its way and gets nowhere
    for _ in range(BATCH_SPANS + 7):
        outbox.on_end(SPAN)
    assert outbox.dropped == 5
    exporter.gate.set()
    outbox.shutdown()
    assert sum(exporter.batches) == 2 * BATCH_SPANS + 2
    assert max(exporter.batches) == BATCH_SPANS
    assert outbox.dropped == 5


def test_the_end_does_not_wait_for_a_collector_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for ever: the exporter is told to let go, and what comes later is dropped."""
    monkeypatch.setattr(exporting, "FLUSH_S", 0.01)
    exporter = Exporter()
    outbox = Outbox(exporter, delay_s=600)
    outbox.on_end(SPAN)
    outbox.shutdown()
    assert exporter.is_over
    outbox.on_end(SPAN)
    assert outbox.dropped == 1
    exporter.gate.set()
    outbox._thread.join()  # pyright: ignore[reportPrivateUsage]


def test_what_was_dropped_is_told_once_a_minute() -> None:
    """With the number since the last time."""
    now = [0.0]
    exporter = Exporter(SpanExportResult.FAILURE)
    exporter.gate.set()
    outbox = Outbox(exporter, delay_s=600, clock=lambda: now[0])
    outbox.shutdown()  # the thread is over, and this test does what it does
    with capture_logs() as logs:
        for now[0] in (0.0, 30.0, 61.0, 62.0):
            outbox._waiting.extend([SPAN, SPAN])  # pyright: ignore[reportPrivateUsage]
            outbox._empty()  # pyright: ignore[reportPrivateUsage]
    assert [(line["event"], line["count"]) for line in logs] == [("spans_dropped", 2), ("spans_dropped", 4)]
    assert outbox.dropped == 8


def test_an_exporter_that_raises_loses_its_batch_alone() -> None:
    """The next one is tried."""

    class Raising(Exporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            if not self.batches:
                self.batches.append(0)
                raise OSError("no")
            return super().export(spans)

    exporter = Raising()
    exporter.gate.set()
    outbox = Outbox(exporter, delay_s=600)
    for _ in range(BATCH_SPANS + 1):
        outbox.on_end(SPAN)
    outbox.shutdown()
    assert sum(exporter.batches) + outbox.dropped == BATCH_SPANS + 1
    assert outbox.dropped >= 1
