"""How a running request is ended from outside: its client leaves, a wait takes too long, the gateway stops.

All of these cancel the request's task and leave the reason in its guard, and the guard's context turns the
cancellation into that reason. A cancellation without a reason is somebody else's and passes through.
"""

import asyncio
from collections.abc import Callable
from typing import Self

from bridgeserver.errors import BridgeError, ClientClosed


class Guard:
    """The guard of one request, which must be made in the request's own task; its context can be entered again.

    `expect` says how long the current wait may last, which costs two assignments and no timer.
    """

    __slots__ = ("_deadline", "_error", "_loop", "_task", "cause")

    def __init__(self, task: asyncio.Task[object], loop: asyncio.AbstractEventLoop) -> None:
        self.cause: BridgeError | None = None
        self._task = task
        self._loop = loop
        self._deadline = float("inf")
        self._error: Callable[[], BridgeError] | None = None

    def expect(self, limit_s: float, error: Callable[[], BridgeError]) -> None:
        """Say that what is awaited next may take *limit_s* seconds, and end the request with *error* if not."""
        self._deadline = self._loop.time() + limit_s
        self._error = error

    def end(self, cause: BridgeError) -> None:
        """End the request because of *cause*; the first cause counts."""
        if self.cause is None:
            self.cause = cause
            self._task.cancel()

    def leave(self) -> None:
        """End the request because its client has left."""
        self.end(ClientClosed("the client left before the answer was whole"))

    def look(self, now: float) -> None:
        """End the request if it is *now* too late for what is awaited."""
        if now >= self._deadline and self._error is not None:
            self.end(self._error())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _exc_type: object, exc: BaseException | None, _traceback: object) -> None:
        if isinstance(exc, asyncio.CancelledError) and self.cause is not None:
            self._task.uncancel()
            raise self.cause from exc


class Guards:
    """The guards of all requests of a worker, with one timer that looks at them every *tick_s*."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tick_s: float) -> None:
        self._loop = loop
        self._tick_s = tick_s
        self._open: set[Guard] = set()
        self._timer = loop.call_later(tick_s, self._look)

    def open(self, task: asyncio.Task[object]) -> Guard:
        """Return a guard for the request that *task* serves."""
        guard = Guard(task, self._loop)
        self._open.add(guard)
        return guard

    def close(self, guard: Guard) -> None:
        """Take back the guard of a request that has ended."""
        self._open.discard(guard)

    def end(self, cause: Callable[[], BridgeError]) -> None:
        """End every request that runs."""
        for guard in list(self._open):
            guard.end(cause())

    def stop(self) -> None:
        """Stop looking; all requests have ended."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(self._tick_s, self._look)
        now = self._loop.time()
        for guard in list(self._open):
            guard.look(now)
