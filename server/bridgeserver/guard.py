"""How a running request is ended from outside: its client leaves, a wait takes too long, the gateway stops.

All of these cancel the request's task and leave the reason in its guard, and the guard's context turns the
cancellation into that reason. A cancellation without a reason is somebody else's and passes through.
"""

import asyncio
from collections.abc import Callable
from typing import Self

from bridgeserver.errors import BridgeError


class Guard:
    """The guard of one request, which must be made in the request's own task; its context can be entered again.

    One timer watches every wait: `expect` says how long the current one may last. The timer looks every
    *tick_s*, which is a tenth of the shortest limit, so that a wait costs two assignments and no timer.
    """

    __slots__ = ("_deadline", "_error", "_loop", "_task", "_tick_s", "_timer", "cause")

    def __init__(self, task: asyncio.Task[object], loop: asyncio.AbstractEventLoop, tick_s: float) -> None:
        self.cause: BridgeError | None = None
        self._task = task
        self._loop = loop
        self._tick_s = tick_s
        self._deadline = float("inf")
        self._error: Callable[[], BridgeError] | None = None
        self._timer = loop.call_later(tick_s, self._look)

    def expect(self, limit_s: float, error: Callable[[], BridgeError]) -> None:
        """Say that what is awaited next may take *limit_s* seconds, and end the request with *error* if not."""
        self._deadline = self._loop.time() + limit_s
        self._error = error

    def end(self, cause: BridgeError) -> None:
        """End the request because of *cause*; the first cause counts."""
        if self.cause is None:
            self.cause = cause
            self._task.cancel()

    def close(self) -> None:
        """Stop watching; the request has ended."""
        self._timer.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _exc_type: object, exc: BaseException | None, _traceback: object) -> None:
        if isinstance(exc, asyncio.CancelledError) and self.cause is not None:
            self._task.uncancel()
            raise self.cause from exc

    def _look(self) -> None:
        if self._error is not None and self._loop.time() >= self._deadline:
            self.end(self._error())
        else:
            self._timer = self._loop.call_later(self._tick_s, self._look)
