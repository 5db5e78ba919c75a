"""Caches, leases and flights alive when the interpreter ends: nothing is printed, and each value exits once."""

import atexit
from typing import Any

from bridgecore import Cache, FlightGroup

seen: list[int] = []
values: list[int] = []


def listener(_key: int, value: int, _cause: Any) -> None:
    seen.append(value)


cache: Cache[int, int] = Cache(100, on_exit=listener, ttl=1000)
for number in range(150):
    cache.set(number, number)
    values.append(number)
lease = cache.acquire(149)
assert lease is not None
group = FlightGroup()
assert group.do("key", lambda: 5) == 5


@atexit.register
def check() -> None:
    assert lease is not None
    lease.release()
    cache.close()
    assert sorted(seen) == values
