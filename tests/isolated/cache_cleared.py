"""A cache that the collector has taken apart can be called by what still runs, and the process goes on."""

import gc
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from bridgecore import Cache

references: list[object] = []
reached = 0
CALLS: list[Callable[[Cache[Any, Any]], object]] = [
    lambda cache: cache.get("present"),
    lambda cache: cache.get2("a", "b"),
    lambda cache: cache.acquire("present"),
    lambda cache: cache.set("new", 1),
    lambda cache: cache.set_and_acquire("new", 1),
    lambda cache: cache.touch("present"),
    lambda cache: cache.delete("present"),
    lambda cache: "present" in cache,
    lambda cache: cache.items(),
    lambda cache: cache.clear(),
    lambda cache: cache.expire(),
    lambda cache: cache.close(),
    lambda cache: cache.stats(),
    len,
    lambda cache: setattr(cache, "max_cost", 1),
]


def ignore(_key: object, _value: object, _cause: object) -> None:
    """Listen, and do nothing."""


class Holder:
    """Something that leads to the cache and can be referred to weakly."""

    cache: Cache[Any, Any] | None = None
    itself: object = None


class Saboteur:
    """Garbage that sets a callback up when all finalizers run, which is called when the values are let go."""

    def __init__(self, holder: Holder, target: Holder, call: Callable[[Cache[Any, Any]], object]) -> None:
        self.holder = holder
        self.target = target
        self.call = call

    def __del__(self) -> None:
        """Set it up."""
        holder, call = weakref.ref(self.holder), self.call

        def late(_: object) -> None:
            global reached  # noqa: PLW0603, a script
            found = holder()
            if found is not None and found.cache is not None:
                reached += 1
                with suppress(RuntimeError, TypeError, IndexError):
                    call(found.cache)

        references[:] = [holder, weakref.ref(self.target, late)]


def build(call: Callable[[Cache[Any, Any]], object], has_listener: bool, holder_first: bool) -> None:
    """Make the garbage."""
    holder = Holder()
    cache: Cache[Any, Any] = Cache(10, on_exit=ignore if has_listener else None)
    if not holder_first:
        holder = Holder()
    holder.cache = cache
    holder.itself = holder
    target = Holder()
    cache.set("present", 1)
    cache.set(("a", "b"), 1)
    cache.get("present")
    cache.get2("a", "b")
    cache.set("saboteur", Saboteur(holder, target, call))
    cache.set("holder", holder)
    cache.set("target", target)


gc.disable()
for each in CALLS:
    for listens in (False, True):
        for first in (False, True):
            build(each, listens, first)
            gc.collect()
assert reached > 0 or sys.version_info >= (3, 13)
