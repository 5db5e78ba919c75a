"""The caches that hit ratios are measured of, each replayed through its own public interface.

The rule is the same for all: ask for the key, and after a miss insert it. A policy that gives other answers from run to
run, because it draws random numbers or works by the clock, is marked and replayed several times.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from common import optional

from bridgecore import Cache

theine = optional("theine")
moka_py = optional("moka_py")
cachebox = optional("cachebox")


class Sized(NamedTuple):
    """What hit in a replay by cost."""

    requests: int
    bytes: int


class Policy(NamedTuple):
    name: str
    package: Any
    """The module it needs, or None when that is not installed."""
    replay: Callable[[Sequence[int], int, int], int]
    """From keys, capacity and seed to the number of hits."""
    replay_sized: Callable[[Sequence[int], Sequence[int], int, int], Sized] | None = None
    """From keys, costs, capacity in bytes and seed to what hit."""
    is_random: bool = False


def _lru(keys: Sequence[int], capacity: int, _seed: int) -> int:
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in keys:
        if key in held:
            hits += 1
            held.move_to_end(key)
        else:
            held[key] = None
            if len(held) > capacity:
                held.popitem(last=False)
    return hits


def _lru_sized(keys: Sequence[int], costs: Sequence[int], capacity: int, _seed: int) -> Sized:
    held: OrderedDict[int, int] = OrderedDict()
    used = hits = hit_bytes = 0
    for key, cost in zip(keys, costs, strict=True):
        if key in held:
            hits += 1
            hit_bytes += cost
            held.move_to_end(key)
        elif cost <= capacity:
            held[key] = cost
            used += cost
            while used > capacity:
                used -= held.popitem(last=False)[1]
    return Sized(hits, hit_bytes)


def _theine(keys: Sequence[int], capacity: int, _seed: int) -> int:
    cache = theine.Cache(capacity, nolock=True)
    get, insert = cache.get, cache.set
    hits = 0
    for key in keys:
        if get(key)[1]:
            hits += 1
        else:
            insert(key, True)
    cache.close()
    return hits


def _replay(get: Callable[[int], Any], insert: Callable[[int, bool], object], keys: Sequence[int]) -> int:
    hits = 0
    for key in keys:
        if get(key) is None:
            insert(key, True)
        else:
            hits += 1
    return hits


def _moka(keys: Sequence[int], capacity: int, _seed: int) -> int:
    cache = moka_py.Moka(capacity)
    return _replay(cache.get, cache.set, keys)


def _moka_sized(keys: Sequence[int], costs: Sequence[int], capacity: int, _seed: int) -> Sized:
    cache = moka_py.Moka(capacity, weigher=lambda _key, cost: cost)
    hits = hit_bytes = 0
    for key, cost in zip(keys, costs, strict=True):
        if cache.get(key) is None:
            cache.set(key, cost)
        else:
            hits += 1
            hit_bytes += cost
    return Sized(hits, hit_bytes)


def _cachebox_lru(keys: Sequence[int], capacity: int, _seed: int) -> int:
    cache = cachebox.LRUCache(capacity)
    return _replay(cache.get, cache.insert, keys)


def _cachebox_lfu(keys: Sequence[int], capacity: int, _seed: int) -> int:
    cache = cachebox.LFUCache(capacity)
    return _replay(cache.get, cache.insert, keys)


def _bridgecore(keys: Sequence[int], capacity: int, seed: int) -> int:
    cache: Cache[int, bool] = Cache(capacity, seed=seed)
    return _replay(cache.get, cache.set, keys)


def _bridgecore_sized(keys: Sequence[int], costs: Sequence[int], capacity: int, seed: int) -> Sized:
    cache: Cache[int, bool] = Cache(capacity, seed=seed)
    hits = hit_bytes = 0
    for key, cost in zip(keys, costs, strict=True):
        if cache.get(key) is None:
            cache.set(key, True, cost)
        else:
            hits += 1
            hit_bytes += cost
    return Sized(hits, hit_bytes)


POLICIES = (
    Policy("bridgecore", Cache, _bridgecore, _bridgecore_sized, is_random=True),
    Policy("theine", theine, _theine, is_random=True),
    Policy("moka-py", moka_py, _moka, _moka_sized, is_random=True),
    Policy("LRU", OrderedDict, _lru, _lru_sized),
    Policy("cachebox LRU", cachebox, _cachebox_lru),
    Policy("cachebox LFU", cachebox, _cachebox_lfu),
)
