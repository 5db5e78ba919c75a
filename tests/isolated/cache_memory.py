"""Rounds of everything that a cache does leave no memory behind."""

import gc
import tracemalloc

from bridgecore import Cache


def a_round(seed: int) -> None:
    now = 0.0
    cache: Cache[str, list[int]] = Cache(
        500, ttl=5, on_exit=lambda _key, _value, _cause: None, clock=lambda: now, seed=seed
    )
    for step in range(3_000):
        cache.set(f"key {step}", [step])
        cache.get(f"key {step - 100}")
        lease = cache.acquire(f"key {step // 2}")
        if lease is not None:
            lease.release()
        if step % 500 == 0:
            now += 3
            cache.expire()
    cache.clear()
    cache.close()


a_round(0)
gc.collect()
tracemalloc.start()
a_round(1)
gc.collect()
before = tracemalloc.get_traced_memory()[0]
for turn in range(8):
    a_round(turn)
gc.collect()
grown = tracemalloc.get_traced_memory()[0] - before
assert grown < 20_000, f"eight rounds left {grown} bytes behind"
