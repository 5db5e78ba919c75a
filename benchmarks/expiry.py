"""Microseconds to throw out 1,000 entries that expire together: bridgecore.Cache, cachebox, moka-py, cachetools.

bridgecore and cachetools read a clock that the benchmark moves; the others have their own, and expire after a pause.
theine is left out: its shortest TTL is a second.
"""

import time
from collections.abc import Callable

from keys import hashed
from rounds import Row, timed
from subjects import VALUE, cachebox, cachetools, listener, moka_py

from bridgecore import Cache

ENTRIES = 1_000
SHORT_S = 0.2
"""TTL where the clock is real: long enough to set all entries before the first expires."""


class Clock:
    """A clock that stands still between steps."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def _check(left: int, name: str) -> None:
    if left:
        raise RuntimeError(f"{name} still holds {left} of {ENTRIES} entries")


def _bridgecore(keys: list[str], on_exit: Callable[..., object] | None) -> Callable[[], float]:
    clock = Clock()
    cache: Cache[str, object] = Cache(2 * ENTRIES, ttl=60, clock=clock, on_exit=on_exit)

    def run() -> float:
        for key in keys:
            cache.set(key, VALUE)
        clock.now_s += 100
        elapsed = timed(cache.expire, ENTRIES)
        _check(len(cache), "bridgecore")
        return elapsed / 1000

    return run


def _cachetools(keys: list[str]) -> Callable[[], float]:
    clock = Clock()
    cache = cachetools.TTLCache(2 * ENTRIES, 60, timer=clock)

    def run() -> float:
        for key in keys:
            cache[key] = VALUE
        clock.now_s += 100
        elapsed = timed(cache.expire)
        _check(len(cache), "cachetools")
        return elapsed / 1000

    return run


def _cachebox(keys: list[str]) -> Callable[[], float]:
    cache = cachebox.VTTLCache(2 * ENTRIES)

    def run() -> float:
        for key in keys:
            cache.insert(key, VALUE, ttl=SHORT_S)
        time.sleep(SHORT_S + 0.01)
        elapsed = timed(cache.expire)
        _check(len(cache), "cachebox")
        return elapsed / 1000

    return run


def _moka(keys: list[str], on_exit: Callable[..., object] | None) -> Callable[[], float]:
    cache = moka_py.Moka(2 * ENTRIES, ttl=SHORT_S, eviction_listener=on_exit)

    def run() -> float:
        for key in keys:
            cache.set(key, VALUE)
        cache.run_pending_tasks()
        time.sleep(SHORT_S + 0.01)
        elapsed = timed(cache.run_pending_tasks)
        _check(cache.count(), "moka-py")
        return elapsed / 1000

    return run


def expirations() -> Row:
    keys = hashed(range(ENTRIES))
    ways = {"bridgecore": _bridgecore(keys, None), "bridgecore, listener": _bridgecore(keys, listener)}
    if cachebox:
        ways["cachebox VTTL"] = _cachebox(keys)
    if moka_py:
        ways |= {"moka-py": _moka(keys, None), "moka-py, listener": _moka(keys, listener)}
    if cachetools:
        ways["cachetools TTL"] = _cachetools(keys)
    return Row("1,000 expirations", ways, rounds=5, unit="us")


ROWS = (expirations,)
