"""Nothing of a cache is garbage that the collector has to find, unless a test made a cycle; then it is all freed."""

import gc
from contextlib import suppress
from typing import Any

from bridgecore import Cache

exits: list[object] = []


def plain() -> None:
    """Use a cache in all ways that make no cycle of their own."""
    cache: Cache[Any, Any] = Cache(10, on_exit=lambda key, _value, cause: exits.append((key, cause)), clock=lambda: 0.0)
    for i in range(100):
        cache.set(i, [i], ttl=5)
        with cache.set_and_acquire(("pair", i), {}):
            cache.delete(i)
    for call in (lambda: cache.set([], 1), lambda: cache.set(1, 1, -1), lambda: cache.touch(1, -1)):
        with suppress(TypeError, ValueError):
            call()
    cache.items()
    cache.stats()
    cache.audit()
    cache.close()


def interrupted() -> None:
    """Raise an interrupt out of a listener, which must not leave a cycle of frames."""

    def listener(_key: object, _value: object, _cause: object) -> None:
        raise KeyboardInterrupt

    cache: Cache[int, int] = Cache(10, on_exit=listener)
    cache.set(1, 1)
    try:
        cache.clear()
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("no interrupt")
    cache.audit()


def cyclic() -> None:
    """Make a cache that refers to itself."""
    cache: Cache[Any, Any] = Cache(10, on_exit=lambda key, _value, cause: exits.append((key, cause)))
    cache.set("itself", [cache])


gc.collect()
gc.disable()
gc.set_debug(gc.DEBUG_SAVEALL)
for use in (plain, interrupted):
    use()
    gc.collect()
    assert gc.garbage == [], (use, gc.garbage)
gc.set_debug(0)
exits.clear()
for _ in range(100):
    cyclic()
gc.collect()
assert len(exits) == 100
assert gc.garbage == []
assert not any(isinstance(thing, Cache) for thing in gc.get_objects())
