"""A closed loop: so many connections, each of which sends its next request as soon as it has its answer."""

import asyncio
import time
from typing import Any, cast

from benchmarks.gateway.load.order import Groups, Target, Window
from benchmarks.gateway.wire import Answer, BrokenAnswer

TAIL = 16


class Loop:
    """What the connections share."""

    def __init__(self, target: Target) -> None:
        self.request = target["request"].encode()
        self.body_bytes = target["body_bytes"]
        self.answered = 0
        self.wrong = 0
        self.is_over = False
        self.usual_length = -1
        self.usual_tail = b""
        """Length and end of an answer that was looked at; most others are equal to it in both."""

    def note(self, answer: Answer, data: bytes, *, in_one_piece: bool) -> None:
        """Count an answer that has ended."""
        self.answered += 1
        if answer.status != 200 or not answer.body_bytes or self.body_bytes not in {None, answer.body_bytes}:
            self.wrong += 1
        elif in_one_piece:
            self.usual_length, self.usual_tail = len(data), data[-TAIL:]


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._answer: Answer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._loop.request)

    def data_received(self, data: bytes) -> None:
        loop = self._loop
        if (
            self._answer is None
            and len(data) == loop.usual_length
            and data.startswith(b"HTTP/1.1 200 ")
            and data.endswith(loop.usual_tail)
        ):
            loop.answered += 1
        else:
            in_one_piece = self._answer is None
            answer = self._answer = self._answer or Answer()
            try:
                answer.feed(data)
            except BrokenAnswer:
                loop.wrong += 1
                self._transport.abort()
                return
            if not answer.is_whole:
                return
            self._answer = None
            loop.note(answer, data, in_one_piece=in_one_piece)
        if not loop.is_over:
            self._transport.write(loop.request)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self._loop.is_over:
            self._loop.wrong += 1


async def run(target: Target, connections: int, warm_s: float, measure_s: float, groups: Groups) -> dict[str, Any]:
    """Return how many requests were answered within a time, and the CPU time that the groups used for them."""
    loop = Loop(target)
    running = asyncio.get_running_loop()
    clients = [
        await running.create_connection(lambda: Client(loop), "127.0.0.1", target["port"]) for _ in range(connections)
    ]
    await asyncio.sleep(warm_s)
    window = Window(groups)
    window.begin()
    began, began_own, answered = time.perf_counter(), time.process_time(), loop.answered
    await asyncio.sleep(measure_s)
    window.end()
    seconds, own_s = time.perf_counter() - began, time.process_time() - began_own
    answered = loop.answered - answered
    loop.is_over = True
    for transport, _ in clients:
        transport.abort()
    return {
        "answered": answered,
        "answered_ever": loop.answered,
        "wrong": loop.wrong,
        "seconds": seconds,
        "cpu": window.used,
        "own_cpu_us": own_s * 1e6,
    }
