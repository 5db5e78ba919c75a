"""Rounds of everything that a cache does leave no memory behind."""

import gc
import resource
import tracemalloc
import warnings
from itertools import pairwise
from typing import Any

from bridgecore import Cache

now = 0.0
exits = 0


def listener(_key: object, _value: object, _cause: object) -> None:
    """Count an exit."""
    global exits  # noqa: PLW0603, a script
    exits += 1


def clock() -> float:
    """Return the time of the round."""
    return now


def fill(cache: Cache[Any, Any]) -> None:
    """Set, evict, lease, refuse, expire, delete and clear; some of it from inside, under errors."""
    global now  # noqa: PLW0603, a script
    for i in range(300):
        cache.set(("pair", i), object())
        cache.set(f"key {i % 70}", object(), cost=i % 3, ttl=1 + i % 7)
        cache.set(i, object(), cost=1000)
    for i in range(100):
        lease = cache.acquire(f"key {i % 70}")
        if lease is not None:
            cache.delete(f"key {i % 70}")
            lease.release()
        with cache.set_and_acquire(i, object()):
            cache.get2("pair", i)
    lost = cache.set_and_acquire("lost", object())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del lost
    for wrong in (-1, 2**70, "x", None):
        try:
            cache.set("wrong", object(), wrong)  # type: ignore[arg-type]
            cache.set([], object())
        except (TypeError, ValueError):
            pass
    now += 4
    cache.expire(20)
    cache.max_cost = 50
    cache.max_cost = 100
    cache.items()
    cache.stats()
    cache.clear()


def cycle() -> None:
    """Drop a cache that refers to itself through a value, a key and a lease that was released."""
    cache: Cache[Any, Any] = Cache(100, on_exit=listener, clock=clock)
    cache.set("itself", [cache], ttl=5)
    cache.set(("a", cache.get), cache)
    with cache.set_and_acquire("held", [cache]) as value:
        value.append(value)


def rounds(count: int) -> int:
    """Return how much memory is in use after that many rounds."""
    kept: Cache[Any, Any] = Cache(100, on_exit=listener, clock=clock, seed=1)
    for _ in range(count):
        fill(kept)
        dropped: Cache[Any, Any] = Cache(100, clock=clock, seed=1)
        fill(dropped)
        dropped.set("left", object())
        cycle()
        kept.audit()
    kept.close()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def peak() -> int:
    """Return the most memory that the process had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


tracemalloc.start()
rounds(15)
resident = peak()
used = [rounds(15) for _ in range(7)]
tracemalloc.stop()
# The interpreter's own free lists fill at their own times; a leak of ours shows in every difference.
assert min(after - before for before, after in pairwise(used)) < 15 * 32, used
rounds(100)
assert peak() - resident < 8192, (resident, peak())
assert exits > 0
