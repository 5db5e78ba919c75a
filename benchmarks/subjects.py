"""The caches that are timed, each behind its own bound methods: nothing of ours stands between a loop and a cache."""

import functools
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, NamedTuple

from common import optional

from bridgecore import Cache, Cause

theine = optional("theine")
moka_py = optional("moka_py")
cachebox = optional("cachebox")
cachetools = optional("cachetools")

TTL_S = 3600.0
"""Long enough that nothing expires while it is measured."""
VALUE = object()


class Subject(NamedTuple):
    cache: Any
    get: Callable[..., Any]
    set: Callable[..., Any]
    delete: Callable[..., Any]
    answers_pairs: bool = False
    """The answer of `get` is (value, was it there)."""
    settle: Callable[[], object] = lambda: None
    """Does what the cache puts off."""

    def fill(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.set(key, VALUE)
        self.settle()


def listener(_key: str, _value: object, _cause: Cause | str) -> None:
    """Do nothing: what a listener costs is the call."""


def _dict(_capacity: int) -> Subject:
    cache: dict[str, object] = {}
    return Subject(cache, cache.get, cache.__setitem__, cache.pop)


def _lru_cache(capacity: int) -> Subject:
    @functools.lru_cache(maxsize=capacity)
    def call(_key: str) -> object:
        return VALUE

    def insert(key: str, _value: object) -> None:
        call(key)

    def delete(_key: str) -> None:
        raise NotImplementedError

    return Subject(call, call, insert, delete)


def _cachebox(kind: str) -> Callable[[int], Subject]:
    def make(capacity: int) -> Subject:
        cache = getattr(cachebox, kind)(capacity)
        return Subject(cache, cache.get, cache.insert, cache.pop)

    return make


def _cachebox_vttl(capacity: int) -> Subject:
    cache = cachebox.VTTLCache(capacity)
    return Subject(cache, cache.get, functools.partial(cache.insert, ttl=TTL_S), cache.pop)


def _cachebox_ttl(capacity: int) -> Subject:
    cache = cachebox.TTLCache(capacity, TTL_S)
    return Subject(cache, cache.get, cache.insert, cache.pop)


def _moka(**options: Any) -> Callable[[int], Subject]:
    def make(capacity: int) -> Subject:
        cache = moka_py.Moka(capacity, **options)
        return Subject(cache, cache.get, cache.set, cache.remove, settle=cache.run_pending_tasks)

    return make


def _theine(*, nolock: bool) -> Callable[[int], Subject]:
    def make(capacity: int) -> Subject:
        cache = theine.Cache(capacity, nolock=nolock)
        return Subject(cache, cache.get, cache.set, cache.delete, answers_pairs=True)

    return make


def _theine_ttl(capacity: int) -> Subject:
    cache = theine.Cache(capacity, nolock=True)
    insert = functools.partial(cache.set, ttl=timedelta(seconds=TTL_S))
    return Subject(cache, cache.get, insert, cache.delete, answers_pairs=True)


def _cachetools_lru(capacity: int) -> Subject:
    cache = cachetools.LRUCache(capacity)
    return Subject(cache, cache.get, cache.__setitem__, cache.pop)


def _cachetools_ttl(capacity: int) -> Subject:
    cache = cachetools.TTLCache(capacity, TTL_S)
    return Subject(cache, cache.get, cache.__setitem__, cache.pop)


def _bridgecore(**options: Any) -> Callable[[int], Subject]:
    def make(capacity: int) -> Subject:
        cache: Cache[str, object] = Cache(capacity, seed=1, **options)
        return Subject(cache, cache.get, cache.set, cache.delete)

    return make


MAKERS: dict[str, tuple[Any, Callable[[int], Subject]]] = {
    "bridgecore": (Cache, _bridgecore()),
    "bridgecore, listener": (Cache, _bridgecore(on_exit=listener)),
    "bridgecore, TTL": (Cache, _bridgecore(ttl=TTL_S)),
    "dict": (dict, _dict),
    "functools.lru_cache": (functools, _lru_cache),
    "cachebox LRU": (cachebox, _cachebox("LRUCache")),
    "cachebox LFU": (cachebox, _cachebox("LFUCache")),
    "cachebox TTL": (cachebox, _cachebox_ttl),
    "cachebox VTTL": (cachebox, _cachebox_vttl),
    "moka-py": (moka_py, _moka()),
    "moka-py, listener": (moka_py, _moka(eviction_listener=listener)),
    "moka-py, TTL": (moka_py, _moka(ttl=TTL_S)),
    "theine nolock": (theine, _theine(nolock=True)),
    "theine locked": (theine, _theine(nolock=False)),
    "theine nolock, TTL": (theine, _theine_ttl),
    "cachetools LRU": (cachetools, _cachetools_lru),
    "cachetools TTL": (cachetools, _cachetools_ttl),
}
"""Name: the module it needs (None when that is not installed), and what makes one of a capacity."""


def subjects(names: Iterable[str], capacity: int) -> dict[str, Subject]:
    """Return an empty cache for each name whose package is installed."""
    return {name: MAKERS[name][1](capacity) for name in names if MAKERS[name][0] is not None}
