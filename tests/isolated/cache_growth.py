"""A collection that makes the cache grow while it grows does not shrink its arrays."""

import gc

from bridgecore import Cache


def attempt(at: int, burst: int) -> int:
    """Let a collection with that number set many keys while others are set; return how many collections there were."""
    cache: Cache[object, int] = Cache(10**6, seed=1)
    for i in range(55):
        cache.set(i, i, ttl=i % 2 or None)
    hoard: list[list[object]] = [[] for _ in range(200)]  # so that the interpreter keeps no lists for reuse
    seen = 0

    def on_collection(phase: str, _info: dict[str, int]) -> None:
        nonlocal seen
        if phase == "start":
            seen += 1
            if seen == at:
                for i in range(burst):
                    cache.set(("burst", i), i, ttl=9)

    gc.collect()
    gc.callbacks.append(on_collection)
    gc.set_threshold(1)
    try:
        for i in range(55, 75):
            cache.set(i, i)
            hoard.append([])
    finally:
        gc.set_threshold(700, 10, 10)
        gc.callbacks.remove(on_collection)
    cache.audit()
    expected = 75 + (burst if seen >= at else 0)
    assert len(cache) == expected, (len(cache), expected)
    for i in range(2000):
        cache.set(("more", i), i, ttl=9)
    cache.audit()
    assert len(cache) == expected + 2000
    assert all(cache.get(("more", i)) == i for i in range(2000))
    return seen


for count in (5, 60, 70, 130, 500):
    number = 1
    while attempt(number, count) >= number:
        number += 1
    assert number > 3, number
