"""Memory that only C knows of does not grow: caches made, filled and dropped, arrays that grow and shrink."""

import gc
import resource
import sys

from bridgecore import Cache


def a_round() -> None:
    for _ in range(20):
        cache: Cache[int, int] = Cache(5_000, ttl=100)
        for step in range(6_000):
            cache.set(step, step)
        cache.max_cost = 50
        cache.max_cost = 5_000


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


for _ in range(3):
    a_round()
gc.collect()
before = peak_kib()
for _ in range(6):
    a_round()
grown = peak_kib() - before
assert grown < 4_096, f"six rounds of twenty caches raised the peak by {grown} KiB"
