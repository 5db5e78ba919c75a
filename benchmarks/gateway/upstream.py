"""The fake provider: as little work an answer as Python can do, so that it is not what is measured.

    python -m benchmarks.gateway.upstream PORT

It prints "ready" and ends when its standard input does. How it streams is a plan for all streams that begin later,
set with `PUT /plan`, because not every gateway lets something of the client's through:

    {"events": 200, "gap_ms": 10}    that many events, the first at once, the others at fixed times
    {"hold": true}                   two events, and then nothing until the client leaves
    {"bulk_bytes": 104857600}        events as fast as the other side takes them
"""

import asyncio
import json
import sys
from typing import Any, cast

import uvloop

from benchmarks.gateway.bodies import CHAT_ANSWER, CLAUDE_ANSWER, FIRST_EVENT, LAST_EVENTS, stream_events, text_event

HEAD_END = b"\r\n\r\n"
_BUFFER = bytearray(1 << 20)
"""Where all connections read to, one after another; what is read is looked at before the next one reads."""

_VIEW = memoryview(_BUFFER)

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: fake\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"
BULK_BYTES = 1 << 16
SHORT_BYTES = 1 << 12
KEPT_BYTES = 1 << 16
"""More than any body that is looked at."""


def whole(body: bytes) -> bytes:
    """Return an answer of known length."""
    return (
        b"HTTP/1.1 200 OK\r\nserver: fake\r\ncontent-type: application/json\r\n"
        b"x-request-id: req_011CQh5rYxu2x4dN1zE6cT0h\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )


def chunk(data: bytes) -> bytes:
    """Return the data as one chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


CHAT = whole(CHAT_ANSWER)
CLAUDE = whole(CLAUDE_ANSWER)
DONE = whole(b"{}")


class Plan:
    """How streams that begin now go on."""

    def __init__(self, *, events: int = 200, gap_ms: float = 10, hold: bool = False, bulk_bytes: int = 0) -> None:
        self.gap_s = gap_ms / 1000
        self.hold = hold
        self.bulk_bytes = bulk_bytes
        self.chunks = [chunk(event) for event in stream_events(events)]
        self.chunks[-1] += LAST_CHUNK


class Provider:
    """What the connections share."""

    def __init__(self) -> None:
        self.plan = Plan()
        self.last_chat = b""
        """A request that was answered with `CHAT`: the next one is nearly always the same, and is not read again."""


class Connection(asyncio.BufferedProtocol):
    """One connection, and the request or stream on it. There is no pipelining here."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._loop = asyncio.get_running_loop()
        self._begun = b""
        self._path = b""
        self._body = b""
        self._is_kept = False
        self._missing = 0
        self._stream: Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._end_stream()

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return _VIEW

    def buffer_updated(self, nbytes: int) -> None:
        if self._missing:
            if self._is_kept:
                self._body += _BUFFER[:nbytes]
            self._missing -= nbytes
            if not self._missing:
                self._answer()
            return
        if nbytes < SHORT_BYTES and not self._begun:
            request = bytes(_BUFFER[:nbytes])
            if request == self._provider.last_chat:
                self._transport.write(CHAT)
                return
            if self._read(nbytes) is CHAT:
                self._provider.last_chat = request
        else:
            self._read(nbytes)

    def _read(self, nbytes: int) -> bytes | None:
        """Look at the beginning of a request, and return its answer if it is whole and was answered whole."""
        # A whole head, as nearly always, is looked at where it is: it may have a megabyte of body behind it.
        end = -1 if self._begun else _BUFFER.find(HEAD_END, 0, nbytes)
        if end >= 0:
            rest = nbytes - end - 4
            body = bytes(_BUFFER[nbytes - min(rest, KEPT_BYTES) : nbytes])
            return self._read_head(bytes(_BUFFER[:end]), body, rest)
        self._begun += _BUFFER[:nbytes]
        end = self._begun.find(HEAD_END)
        if end >= 0:
            begun, self._begun = self._begun, b""
            self._read_head(begun[:end], begun[end + 4 :], len(begun) - end - 4)
        return None

    def _read_head(self, head: bytes, body: bytes, count: int) -> bytes | None:
        self._path = head[head.index(b" ") + 1 : head.index(b" HTTP/")]
        at = head.lower().find(b"\r\ncontent-length:")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        # Long bodies are counted and not kept: only the short ones say how to answer.
        self._is_kept = not self._path.endswith(b"/messages")
        self._body = body
        self._missing = length - count
        return None if self._missing else self._answer()

    def _answer(self) -> bytes | None:
        """Answer, and return the answer if it is a whole one."""
        if self._path.endswith(b"/messages"):
            answer = CLAUDE
        elif self._path == b"/plan":
            self._provider.plan = Plan(**cast("dict[str, Any]", json.loads(self._body)))
            answer = DONE
        elif b'"stream":true' in self._body or b'"stream": true' in self._body:
            self._stream = Stream(self._transport, self._provider.plan, self._loop)
            return None
        else:
            answer = CHAT
        self._transport.write(answer)
        return answer

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.stop()
            self._stream = None

    def pause_writing(self) -> None:
        if self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        if self._stream is not None:
            self._stream.resume()


class Stream:
    """One streamed answer."""

    def __init__(self, transport: asyncio.Transport, plan: Plan, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._plan = plan
        self._loop = loop
        self._next = 1
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        if plan.bulk_bytes:
            events = b"".join(text_event(number) for number in range(BULK_BYTES // len(text_event(0))))
            self._bulk = chunk(events)
            self._left = plan.bulk_bytes // len(events)
            transport.write(STREAM_HEAD + chunk(FIRST_EVENT))
            self.resume()
        elif plan.hold:
            transport.write(STREAM_HEAD + plan.chunks[0] + plan.chunks[1])
        else:
            transport.write(STREAM_HEAD + plan.chunks[0])
            self._began = loop.time()
            self._wait()

    def stop(self) -> None:
        self._left = 0
        if self._timer is not None:
            self._timer.cancel()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        """Write on until the other side is slower."""
        self._is_paused = False
        while self._left and not self._is_paused:
            self._left -= 1
            self._transport.write(self._bulk)
            if not self._left:
                self._transport.write(b"".join(map(chunk, LAST_EVENTS)) + LAST_CHUNK)

    def _wait(self) -> None:
        self._timer = self._loop.call_at(self._began + self._next * self._plan.gap_s, self._tick)

    def _tick(self) -> None:
        self._transport.write(self._plan.chunks[self._next])
        self._next += 1
        if self._next < len(self._plan.chunks):
            self._wait()


async def _serve(port: int) -> None:
    provider = Provider()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(provider), "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    async with server:
        ended = asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), ended.set)
        await ended.wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
