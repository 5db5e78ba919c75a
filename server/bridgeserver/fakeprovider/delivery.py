"""Writes an answer at the pace of its script.

No task and no coroutine: benchmarks keep thousands of these open. `_advance` writes what may be written now;
whatever made it stop (a timer, the gate, a full transport) calls it again.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable

from bridgeserver.fakeprovider.plan import Plan
from bridgeserver.fakeprovider.received import Received

# struct linger: on, 0 s. Closing such a socket sends RST.
_NO_LINGER = struct.pack("ii", 1, 0)


class Gate:
    """Lets as many events pass as were released, in the order in which they came to wait."""

    def __init__(self) -> None:
        self._permits = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def enter(self, go: Callable[[], None]) -> bool:
        """Return whether an event may pass at once; if not, *go* is called when it may."""
        if self._permits:
            self._permits -= 1
            return True
        self._waiting.append(go)
        return False

    def leave(self, go: Callable[[], None]) -> None:
        """Take back an `enter`, if it still waits."""
        if go in self._waiting:
            self._waiting.remove(go)

    def reset(self) -> None:
        """Take back what was released and not used."""
        self._permits = 0

    def release(self, count: int) -> None:
        self._permits += count
        while self._permits and self._waiting:
            self._permits -= 1
            self._waiting.popleft()()


class Delivery:
    """One answer under way."""

    def __init__(
        self,
        plan: Plan,
        received: Received,
        transport: asyncio.Transport,
        gate: Gate,
        on_end: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._received = received
        self._transport = transport
        self._gate = gate
        self._on_end = on_end
        self._position = 0
        self._is_waiting = False
        self._is_full = False
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        script = self._plan.script
        delay_s = script.first_delay_s
        if not self._plan.is_stream:
            delay_s += script.gap_s * script.events
        if delay_s:
            self._wait(delay_s)
        else:
            self._advance()

    def pause(self) -> None:
        self._is_full = True

    def resume(self) -> None:
        self._is_full = False
        self._advance()

    def abandon(self, *, by_client: bool) -> None:
        """Send nothing more: the connection is gone."""
        if self._is_over:
            return
        if by_client:
            self._received.closed.set()
        self._end()

    def _advance(self) -> None:
        script = self._plan.script
        while not (self._is_waiting or self._is_full or self._is_over):
            if self._position == script.cut_after:
                self._cut()
            elif self._position == script.stall_after:
                self._is_waiting = True
            elif self._position == len(self._plan.pieces):
                self._finish()
            else:
                self._write()

    def _write(self) -> None:
        plan, piece = self._plan, self._plan.pieces[self._position]
        data = b"%x\r\n%b\r\n" % (len(piece), piece) if plan.is_chunked else piece
        self._received.note_sent(piece)
        if self._position == 0:
            self._received.status = plan.status
            data = plan.head + data
        # Counted before it is written: a full transport calls `pause` from inside `write`.
        self._position += 1
        self._transport.write(data)
        if self._position < len(plan.pieces):
            self._hold()

    def _hold(self) -> None:
        script = self._plan.script
        if script.gate:
            self._is_waiting = not self._gate.enter(self._go)
        elif script.gap_s:
            self._wait(script.gap_s)

    def _wait(self, delay_s: float) -> None:
        self._is_waiting = True
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._go)

    def _go(self) -> None:
        self._is_waiting = False
        self._advance()

    def _finish(self) -> None:
        if self._plan.is_chunked:
            self._transport.write(b"0\r\n\r\n")
        if self._plan.closes:
            self._transport.close()
        self._end()

    def _cut(self) -> None:
        if self._plan.script.reset:
            raw_socket = self._transport.get_extra_info("socket")
            raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        # Not `abort`, which drops what the socket has not taken yet.
        self._transport.close()
        self._end()

    def _end(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._gate.leave(self._go)
        self._received.ended.set()
        self._on_end()
