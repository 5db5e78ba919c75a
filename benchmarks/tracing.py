"""What tracing costs a request: with it off, for one that is not sampled, and for one that is.

    python benchmarks/tracing.py [--quick] [--json OUT]

A row is the CPU time of one request's share: the checks that find tracing off; reading the client's context, deciding
and writing the provider's; the spans of a chat, ended and handed over, without the thread that sends them.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from common import about, save, table
from injecting import cost_us
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from bridgecore import Request
from bridgeserver import spans
from bridgeserver.config import ProviderConfig, TracingConfig
from bridgeserver.exporting import trace_into
from bridgeserver.identity import Caller
from bridgeserver.observing import NAMES
from bridgeserver.providers import Provider, Route, build
from bridgeserver.records import InterceptionEnd, TokenUsage
from bridgeserver.spans import Trace, gen_ai
from bridgeserver.tracing import UNTRACED, Tracing

PACKAGES = ("opentelemetry-sdk",)
CHECKS = 7
"""Places of a chat's way at which a trace is looked for."""

PATH = "/v1/chat/completions"
CALLER = Caller("user-1", "ann", "key-1", is_admin=False)
PARENT = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
USAGE = TokenUsage("i", 1, "chatcmpl-1", 10, 5, 0, 0, {}, partial=False, created_at=0, stop_reason="stop")
FIELDS = [
    (b"host", b"gateway.example.com"),
    (b"user-agent", b"OpenAI/Python 2.1.0"),
    (b"authorization", b"Bearer bc_0123456789ab_0123456789abcdef0123456789abcdef"),
    (b"accept", b"application/json"),
    (b"content-type", b"application/json"),
    *[(b"x-stainless-%d" % number, b"some value") for number in range(7)],
    (b"content-length", b"200"),
]


class Nowhere(SpanProcessor):
    """Takes spans."""

    def on_end(self, span: ReadableSpan) -> None:
        """Forget one."""


def request(*further: tuple[bytes, bytes]) -> Request:
    """Return the request of an SDK."""
    return Request("POST", f"/openai{PATH}".encode(), [*FIELDS, *further])


def off() -> None:
    """Look for a trace as a request does, and find none."""
    trace: Trace | None = None
    begun = UNTRACED
    for _ in range(CHECKS):
        if trace is not None:
            trace.end(200)
    spans.is_traced()
    _line = b"" + begun.line


def sampled(tracing: Tracing, asked: Request, provider: Provider, route: Route) -> None:
    """Trace one chat."""
    trace = tracing.begin(asked, CALLER, provider, route).trace
    assert trace is not None
    with spans.span("BridgePool.acquire", {"user_id": "user-1", "key_id": "key-1"}) as traced:
        traced.event("cache_hit")
    trace.created({"interception_id": "i", "model": "m", "streaming": False}, is_stream=False)
    trace.process(gen_ai("openai", "m", None, is_stream=False))
    trace.send({"http.request.method": "POST", "server.address": "api.openai.com", "server.port": 443})
    for kind, name in NAMES.items():
        trace.record(name, is_outermost=kind is InterceptionEnd).end()
    trace.answered(200)
    trace.count(USAGE)
    trace.processed(None, None, 1)
    trace.end(200)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a few calls only, to see that it runs")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    count, rounds = (20, 1) if options.quick else (2000, 9)
    config = ProviderConfig(name="openai", type="openai", base_url="https://api.openai.com/v1", auth="bearer")
    provider = build([config], {})["openai"]
    route = provider.route("POST", f"/openai{PATH}")
    rare = trace_into(Nowhere(), TracingConfig(sample_ratio=0.0))
    always = trace_into(Nowhere(), TracingConfig())
    plain, told = request(), request(PARENT)
    works: dict[str, Callable[[], object]] = {
        "off": off,
        "not sampled": partial(rare.begin, plain, CALLER, provider, route),
        "not sampled, with a client's context": partial(rare.begin, told, CALLER, provider, route),
        "sampled": partial(sampled, always, plain, provider, route),
    }
    rows: list[dict[str, Any]] = [
        {"request": name, "us": cost_us(work, count if name != "sampled" else count // 10, rounds)}
        for name, work in works.items()
    ]
    print(table(("request", "µs"), [[row["request"], f"{row['us']:.2f}"] for row in rows]))
    if options.json:
        save(options.json, about(PACKAGES), {"tracing": rows})


if __name__ == "__main__":
    main()
