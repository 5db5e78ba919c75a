"""The memory outside the interpreter's own goes back when caches are dropped, resized or fail to be made."""

import contextlib
import resource

from bridgecore import Cache


def peak() -> int:
    """Return the most memory that the process had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def rounds(count: int) -> None:
    """Make, fill, resize and drop caches whose arrays, wheel, sketch and shadows take more than a MiB."""
    for _ in range(count):
        cache: Cache[int, None] = Cache(8000, seed=1)
        for i in range(9000):
            cache.set(i, None, ttl=100)
        cache.audit()
        cache.max_cost = 10
        cache.max_cost = 100_000
        for i in range(9000):
            cache.set(i, None)
        cache.audit()
        for wrong in (0, -1):
            with contextlib.suppress(ValueError):
                Cache(5, ttl=wrong)


rounds(4)
before = peak()
rounds(40)
assert peak() - before < 12 * 1024, (before, peak())
