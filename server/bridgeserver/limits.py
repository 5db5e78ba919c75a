"""What a worker takes on at once: requests, buffered bytes, refused keys from one address."""

import time
from collections import OrderedDict
from collections.abc import Callable

from bridgeserver.errors import Overloaded, TooManyRequests

FAILURES_PER_S = 20
"""Refused keys that one address may try a second."""

ADDRESSES_KEPT = 4096


class Admission:
    """Counts the requests that run, and refuses those above *max_streams*."""

    def __init__(self, max_streams: int) -> None:
        self._max_streams = max_streams
        self.running = 0

    def enter(self) -> None:
        """Count a request in, or raise Overloaded."""
        if self.running >= self._max_streams:
            raise Overloaded(f"the gateway is at capacity: {self._max_streams} requests are running")
        self.running += 1

    def leave(self) -> None:
        """Count a request out."""
        self.running -= 1


class Budget:
    """Bytes that a worker holds at once: of request bodies, or of answers that it reads along with."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.used = 0

    def take(self, count: int) -> None:
        """Take *count* bytes, or raise Overloaded and take none."""
        if not self.try_take(count):
            raise Overloaded(f"the gateway is at capacity: request bodies fill their {self._max_bytes} bytes")

    def try_take(self, count: int) -> bool:
        """Take *count* bytes, or return False and take none."""
        if self.used + count > self._max_bytes:
            return False
        self.used += count
        return True

    def give_back(self, count: int) -> None:
        """Give *count* bytes back."""
        self.used -= count


class FailureLimit:
    """Slows the guessing of keys: after `FAILURES_PER_S` refusals in a second an address waits for the next one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise TooManyRequests if *address* has failed too often in this second."""
        second, count = self._failures.get(address, (0, 0))
        if count >= FAILURES_PER_S and second == int(self._clock()):
            raise TooManyRequests(f"more than {FAILURES_PER_S} refused gateway keys in one second from this address")

    def count(self, address: str) -> None:
        """Count a refused key from *address*."""
        now = int(self._clock())
        second, count = self._failures.pop(address, (now, 0))
        self._failures[address] = (now, count + 1 if second == now else 1)
        if len(self._failures) > ADDRESSES_KEPT:
            self._failures.popitem(last=False)
