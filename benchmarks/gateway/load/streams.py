"""Many streams at once, begun one after another; each event is counted when it is here."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

from benchmarks.gateway.figures import percentiles
from benchmarks.gateway.load.order import Groups, Target, Window
from benchmarks.gateway.wire import Answer, BrokenAnswer

SHARES = (0.5, 0.99, 1.0)
LAST_S = 20.0


class Counts:
    """What the streams share."""

    def __init__(self, target: Target) -> None:
        self.request = target["request"].encode()
        self.expected = target["events"]
        self.events = 0
        self.whole = 0
        self.wrong = 0
        self.first_us: list[float] = []
        """From a request to its first event."""


class Client(asyncio.Protocol):
    """One connection with one stream after another on it."""

    def __init__(self, counts: Counts, turns: int) -> None:
        self._counts = counts
        self._turns = turns
        self.is_done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def begin(self) -> None:
        """Ask for the next stream."""
        self._turns -= 1
        self._answer = Answer()
        self._events = 0
        self._end = b""
        self._sent = time.perf_counter_ns()
        self._transport.write(self._counts.request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter_ns()
        try:
            payload = self._answer.feed(data)
        except BrokenAnswer:
            self._transport.abort()
            return
        if count := (self._end + payload).count(b"\n\n"):
            if not self._events:
                self._counts.first_us.append((now - self._sent) / 1000)
            self._events += count
            self._counts.events += count
        # A blank line may come in two pieces, and must not be counted twice.
        self._end = b"\n" if payload.endswith(b"\n") and not payload.endswith(b"\n\n") else b""
        if self._answer.is_whole:
            self._note()

    def _note(self) -> None:
        self._counts.whole += 1
        if self._answer.status != 200 or not self._events or self._counts.expected not in {None, self._events}:
            self._counts.wrong += 1
        if self._turns:
            self.begin()
        elif not self.is_done.done():
            self.is_done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.is_done.done():
            self._counts.wrong += 1
            self.is_done.set_result(None)

    def abort(self) -> None:
        self._transport.abort()


async def run(
    target: Target, count: int, turns: int, ramp_s: float, span_s: Sequence[float], groups: Groups
) -> dict[str, Any]:
    """Return the events and the CPU time between two moments after the first stream's begin, and times to first event.

    The streams begin evenly over *ramp_s*, so that their events do not come together.
    """
    counts = Counts(target)
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: Client(counts, turns), "127.0.0.1", target["port"]))[1]
        for _ in range(count)
    ]
    began = loop.time()
    for number, client in enumerate(clients):
        loop.call_at(began + ramp_s * number / count, client.begin)
    await asyncio.sleep(span_s[0])
    window = Window(groups)
    window.begin()
    first = counts.events
    await asyncio.sleep(began + span_s[1] - loop.time())
    window.end()
    events = counts.events - first
    try:
        async with asyncio.timeout(LAST_S):
            await asyncio.gather(*(client.is_done for client in clients))
    except TimeoutError:
        counts.wrong += sum(not client.is_done.done() for client in clients)
    for client in clients:
        client.abort()
    return {
        "events": events,
        "whole": counts.whole,
        "wrong": counts.wrong,
        "seconds": span_s[1] - span_s[0],
        "first_us": percentiles(counts.first_us, SHARES) if counts.first_us else [],
        "cpu": window.used,
    }
