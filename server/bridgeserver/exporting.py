"""Spans on their way to a collector: the SDK of OpenTelemetry, OTLP over HTTP, in a thread of its own.

Imported where traces are asked for: the packages take 0.15 s and 12 MB of a worker.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from importlib.metadata import version

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from bridgeserver.config import TracingConfig
from bridgeserver.tracing import Tracing

log = structlog.get_logger("bridgecore")
# It would write a line and more for every batch that a collector does not take; ours are counted, and told of below.
logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL + 1)

PATH = "/v1/traces"

QUEUE_SPANS = 4096
"""What waits for the collector at most, some 10 MB; later ones are dropped."""

BATCH_SPANS = 64
"""Few, since writing a batch down holds the interpreter, which requests want too: some 3 ms."""

DELAY_S = 1.0
PAUSE_S = 0.002
"""Between two batches, for the requests."""

TELL_S = 60.0
FLUSH_S = 1.0


class Outbox(SpanProcessor):
    """Takes spans without ever waiting, and has a thread give them to *exporter*."""

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        capacity: int = QUEUE_SPANS,
        delay_s: float = DELAY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped = 0
        """Spans that found no room, and those that the collector did not take."""
        self._exporter = exporter
        self._capacity = capacity
        self._delay_s = delay_s
        self._clock = clock
        self._waiting: deque[ReadableSpan] = deque()
        self._refused = 0  # counted by the thread, and `_missed` by everybody else: no lock is needed
        self._missed = 0
        self._told = 0
        self._told_at: float | None = None
        self._awake = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        if self._is_closing or len(self._waiting) >= self._capacity:
            self._missed += 1
            self.dropped = self._missed + self._refused
            return
        self._waiting.append(span)
        if len(self._waiting) >= BATCH_SPANS:
            self._awake.set()

    def shutdown(self) -> None:
        """Give away what is left, within `FLUSH_S`."""
        self._is_closing = True
        self._awake.set()
        self._thread.join(FLUSH_S)
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Have what waits given away soon; nothing waits for it."""
        del timeout_millis
        self._awake.set()
        return True

    def _run(self) -> None:
        while not self._is_closing:
            self._awake.wait(self._delay_s)
            self._awake.clear()
            self._empty()
            self._tell()
        self._empty()  # what came between the last look and the end

    def _empty(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH_SPANS, len(self._waiting)))]
            try:
                is_taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
            except Exception:
                is_taken = False
            if not is_taken:
                self._refused += len(batch)
                self._tell()
            self.dropped = self._missed + self._refused
            time.sleep(PAUSE_S)

    def _tell(self) -> None:
        """Log what was dropped, at most once a minute."""
        count = self._missed + self._refused
        now = self._clock()
        if count == self._told or (self._told_at is not None and now - self._told_at < TELL_S):
            return
        log.warning("spans_dropped", count=count - self._told, reason="the collector does not take them, or too slowly")
        self._told, self._told_at = count, now


def start(config: TracingConfig) -> Tracing | None:
    """Return what traces requests from now on; None where `OTEL_SDK_DISABLED` says so."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    endpoint = config.endpoint.rstrip("/").removesuffix(PATH) + PATH
    headers = {name: value.reveal() for name, value in config.headers.items()}
    outbox = Outbox(OTLPSpanExporter(endpoint, headers=headers))
    return trace_into(outbox, config, lambda: outbox.dropped)


def trace_into(processor: SpanProcessor, config: TracingConfig, dropped: Callable[[], int] = lambda: 0) -> Tracing:
    """Return what traces requests and gives their spans to *processor*, which has *dropped* some."""
    resource = Resource.create({"service.name": config.service_name, "service.version": version("bridgecore")})
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return Tracing(
        provider.get_tracer("bridgecore", version("bridgecore")),
        sample_ratio=config.sample_ratio,
        trust_parent=config.trust_parent,
        on_close=provider.shutdown,
        dropped=dropped,
    )
