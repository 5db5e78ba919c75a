"""How late the timers of an event loop fire: the sign that something holds the loop up, or that its core is full."""

import asyncio
from collections.abc import Callable
from time import monotonic

from bridgeserver.counting import MICRO, Counters, Histogram

EVERY_S = 0.1
REMEMBERED_S = 30.0
"""The longest is forgotten between once and twice this time after it was."""


class LoopLag:
    """Watches the loop that `follow` runs in."""

    def __init__(self, counters: Counters, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._histogram = Histogram(counters, counters.name("loop_lag"))
        self._longest_s = self._longest_before_s = 0.0
        self._forget_at = clock() + REMEMBERED_S

    @property
    def max_us(self) -> int:
        """The longest of the last minute, in microseconds."""
        return int(max(self._longest_s, self._longest_before_s) * MICRO)

    async def follow(self) -> None:
        """Set one timer after another; runs until it is cancelled."""
        while True:
            due = self._clock() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self._note(max(0.0, self._clock() - due))

    def _note(self, late_s: float) -> None:
        now = self._clock()
        if now >= self._forget_at:
            self._longest_before_s, self._longest_s = self._longest_s, 0.0
            self._forget_at = now + REMEMBERED_S
        self._longest_s = max(self._longest_s, late_s)
        self._histogram.observe(late_s)
