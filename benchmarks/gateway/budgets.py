"""What the gateway is allowed to cost, and whether it keeps to that."""

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.gateway.figures import ratio
from benchmarks.gateway.requests import Kind
from benchmarks.gateway.results import KB_A_MB, LIMIT, OURS, Results, middle


class Budget(NamedTuple):
    """One limit, and what was measured; None when it was not."""

    name: str
    limit: float
    unit: str
    measured: float | None
    is_least: bool = False
    """Whether the measured figure must not be lower, where else it must not be higher."""

    @property
    def is_met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.is_least else self.measured <= self.limit


def budgets(results: Results) -> Iterator[Budget]:
    """Yield all of them."""
    yield from _chat(results)
    yield from _streams(results)
    for place, name, limit in ((0, "p50", 0.5), (1, "p99", 3.0)):
        added = _thousandth(results.latency_added_us(OURS, 2000, place))
        yield Budget(f"latency added at 2,000 requests/s, {name}", limit, "ms", added)
    yield from _memory(results)
    yield Budget("start to first right answer", 1.0, "s", middle(results.start_s(OURS)))
    yield Budget("two workers by one, by CPU time", 1.7, "times", results.scaling(), is_least=True)


def _chat(results: Results) -> Iterator[Budget]:
    ours = results.request_us(OURS, Kind.CHAT)
    yield Budget("short chat, CPU a request, worker", 100, "µs", middle(ours))
    parent = results.request_us(OURS, Kind.CHAT, "parent")
    yield Budget("short chat, CPU a request, parent (shipping to SQLite)", 45, "µs", middle(parent))
    yield Budget("short chat, worker by nginx", 6.5, "times", _by(ours, results.request_us(LIMIT, Kind.CHAT)))
    for name, title, limit in (
        ("tensorzero", "TensorZero", 2.5),
        ("portkey", "Portkey", 12),
        ("litellm", "LiteLLM", 80),
    ):
        theirs = results.request_us(name, Kind.CHAT)
        yield Budget(f"short chat, {title} by worker", limit, "times", _by(theirs, ours), is_least=True)
    body = Kind.CLAUDE_1M
    big = _by(results.request_us(OURS, body), results.request_us(LIMIT, body))
    yield Budget("1 MB Claude Code body, worker by nginx", 3, "times", big)


def _streams(results: Results) -> Iterator[Budget]:
    for case in results.cases():
        cost = _by(results.event_us(OURS, case), results.event_us(LIMIT, case))
        yield Budget(f"streams, {case}: CPU an event, worker by nginx", 2.5, "times", cost)
    for case in results.cases():
        if case.streams == 64:
            first = _thousandth(results.first_added_us(OURS, case))
            yield Budget(f"streams, {case}: added time to the first event, p50", 0.3, "ms", first)


def _memory(results: Results) -> Iterator[Budget]:
    idle = results.idle_kb(OURS)
    yield Budget("resident, idle worker", 80, "MB", None if idle is None else idle / KB_A_MB)
    for count, size in results.held(OURS):
        yield Budget(f"memory an open stream, {count:,} of them", 40, "KB", size)
    slow = [row["peak_rss_kb"] / KB_A_MB for row in results.rows("slow", subject=OURS)]
    yield Budget("highest resident memory, clients that read slowly", 200, "MB", middle(slow))


def _by(these: list[float], those: list[float]) -> float | None:
    return ratio(these, those) if these and those else None


def _thousandth(value: float | None) -> float | None:
    return None if value is None else value / 1000
