"""An open loop: requests leave at times that were fixed before, however late the answers are.

Latency counts from the time at which a request should have left: a server that stops for a while is charged for every
request that falls into that while.
"""

import asyncio
import ctypes
import itertools
import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from benchmarks.gateway.figures import percentiles
from benchmarks.gateway.load.order import Target
from benchmarks.gateway.wire import Answer, BrokenAnswer

SHARES = (0.5, 0.99, 0.999, 1.0)
LEAD_S = 0.05
LAST_S = 5.0

_MONOTONIC = 1
_NONBLOCK = 0o4000
_ABSOLUTE = 1


class Alarm:
    """A timer of the kernel that is exact to some microseconds; those of event loops are to a millisecond."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._ring = ring
        self.descriptor = self._libc.timerfd_create(_MONOTONIC, _NONBLOCK)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._setting = (ctypes.c_long * 4)()  # interval and value, seconds and nanoseconds of each
        self._place = ctypes.byref(self._setting)
        asyncio.get_running_loop().add_reader(self.descriptor, self._wake)

    def set(self, at_ns: int) -> None:
        """Ring at a time of `time.monotonic_ns`, at once if it has passed."""
        self._setting[2], self._setting[3] = divmod(at_ns, 1_000_000_000)
        self._libc.timerfd_settime(self.descriptor, _ABSOLUTE, self._place, None)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.descriptor)
        os.close(self.descriptor)

    def _wake(self) -> None:
        os.read(self.descriptor, 8)
        self._ring()


def arrivals(rate: float, seconds: float, seed: int) -> list[int]:
    """Return the times in ns at which requests of independent clients arrive: a Poisson process, the same each time."""
    draw = random.Random(seed).expovariate
    times = itertools.accumulate(draw(rate) for _ in itertools.count())
    return [int(at * 1e9) for at in itertools.takewhile(lambda at: at < seconds, times)]


class Client(asyncio.Protocol):
    """One connection, which is free or has a request under way."""

    def __init__(self, pace: "Pace") -> None:
        self._pace = pace
        self._answer = Answer()
        self._due_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._pace.free.append(self)

    def send(self, due_ns: int) -> None:
        self._due_ns = due_ns
        self._transport.write(self._pace.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        try:
            self._answer.feed(data)
        except BrokenAnswer:
            self._transport.abort()
            return
        if self._answer.is_whole:
            answer, self._answer = self._answer, Answer()
            due_ns, self._due_ns = self._due_ns, 0
            self._pace.note(answer, now - due_ns)
            self._pace.take(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._due_ns:
            self._pace.lost += 1
        elif self in self._pace.free:
            self._pace.free.remove(self)

    def abort(self) -> None:
        self._transport.abort()


class Pace:
    """The requests of one run."""

    def __init__(self, target: Target, times: Sequence[int]) -> None:
        self.request = target["request"].encode()
        self.free: list[Client] = []
        self.latencies: list[int] = []
        self.wrong = 0
        self.lost = 0
        self.late: list[int] = []
        """How much later than it should each request left, for want of this process or of a connection."""
        self._body_bytes = target["body_bytes"]
        self._times = times
        self._next = 0
        self._waiting: deque[int] = deque()
        self._alarm = Alarm(self._send_due)
        self.is_done = asyncio.Event()

    def begin(self) -> None:
        start_ns = time.monotonic_ns() + int(LEAD_S * 1e9)
        self._times = [start_ns + at for at in self._times]
        self._alarm.set(self._times[0])

    def close(self) -> None:
        self._alarm.close()

    def note(self, answer: Answer, latency_ns: int) -> None:
        self.latencies.append(latency_ns)
        if answer.status != 200 or not answer.body_bytes or self._body_bytes not in {None, answer.body_bytes}:
            self.wrong += 1
        if len(self.latencies) + self.lost == len(self._times):
            self.is_done.set()

    def take(self, client: Client) -> None:
        """Give a connection that is free again its next request."""
        if self._waiting:
            self._send(client, self._waiting.popleft())
        else:
            self.free.append(client)

    def _send_due(self) -> None:
        now = time.monotonic_ns()
        while self._next < len(self._times) and self._times[self._next] <= now:
            due_ns = self._times[self._next]
            self._next += 1
            if self.free:
                self._send(self.free.pop(), due_ns)
            else:
                self._waiting.append(due_ns)
        if self._next < len(self._times):
            self._alarm.set(self._times[self._next])

    def _send(self, client: Client, due_ns: int) -> None:
        self.late.append(time.monotonic_ns() - due_ns)
        client.send(due_ns)


async def run(target: Target, connections: int, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Return the latencies in µs of requests that leave at fixed times."""
    times = arrivals(rate, seconds, seed)
    pace = Pace(target, times)
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: Client(pace), "127.0.0.1", target["port"]))[1] for _ in range(connections)
    ]
    pace.begin()
    try:
        async with asyncio.timeout(LEAD_S + seconds + LAST_S):
            await pace.is_done.wait()
    except TimeoutError:
        pass  # what is missing is counted as lost
    pace.close()
    for client in clients:
        client.abort()
    return {
        "sent": len(times),
        "answered": len(pace.latencies),
        "wrong": pace.wrong,
        "latency_us": [at / 1000 for at in percentiles(pace.latencies, SHARES)],
        "late_us": [at / 1000 for at in percentiles(pace.late, SHARES)],
    }
