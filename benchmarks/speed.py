"""Nanoseconds an operation of bridgecore.Cache, against dict, lru_cache, cachebox, moka-py, theine and cachetools.

The loops below are the same for all contenders, but for theine's answers, which are pairs. Nothing is subtracted: the
first row is what the loop itself costs, empty and with a call of a built-in function in it.
"""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from keys import hashed, joined, pair, zipf
from rounds import Row, own, timed
from subjects import VALUE, Subject, subjects

ENTRIES = 1_000
"""Entries held, the capacity, and the operations of most slices."""
SMALL, LARGE = 100, 100_000
"""Entries held in the rows that say so."""
UNIVERSE = 10_000
SLICE = 2_000
"""Requests of a slice of the zipf mix."""
WARM_UP = 50_000
"""Requests of the zipf mix before the first slice."""
THREADS = 4
GETS_A_THREAD = 20_000

OURS = ("bridgecore", "bridgecore, listener")
LRU_FAMILY = ("cachebox LRU", "cachebox LFU", "cachebox VTTL")
REST = ("moka-py", "moka-py, listener", "theine nolock", "theine locked", "cachetools LRU", "cachetools TTL")
WITH_TTL = (
    "bridgecore",
    "bridgecore, TTL",
    "cachebox TTL",
    "cachebox VTTL",
    "moka-py, TTL",
    "theine nolock, TTL",
    "cachetools TTL",
)

Slice = Callable[[], float]


def _empty(keys: Sequence[str]) -> None:
    for _key in keys:
        pass


def _each(call: Callable[[str], object], keys: Sequence[str]) -> None:
    for key in keys:
        call(key)


def _each_set(insert: Callable[[str, object], object], keys: Sequence[str], value: object) -> None:
    for key in keys:
        insert(key, value)


def _each_delete_set(subject: Subject, keys: Sequence[str], value: object) -> None:
    delete, insert = subject.delete, subject.set
    for key in keys:
        delete(key)
        insert(key, value)


def _each_get_or_set(subject: Subject, keys: Sequence[str], value: object) -> None:
    get, insert = subject.get, subject.set
    for key in keys:
        if get(key) is None:
            insert(key, value)


def _each_get_or_set_pairs(subject: Subject, keys: Sequence[str], value: object) -> None:
    get, insert = subject.get, subject.set
    for key in keys:
        if not get(key)[1]:
            insert(key, value)


def _each_two(get2: Callable[[str, str], object], parts: Sequence[tuple[str, str]]) -> None:
    for a, b in parts:
        get2(a, b)


def _each_join(get: Callable[[str], object], parts: Sequence[tuple[str, str]]) -> None:
    for a, b in parts:
        get(f"{a}|{b}")


def _each_tuple(get: Callable[[Any], object], parts: Sequence[tuple[str, str]]) -> None:
    for a, b in parts:
        get((a, b))


def _each_release(acquire: Callable[[str], Any], keys: Sequence[str]) -> None:
    for key in keys:
        acquire(key).release()


def _each_with(acquire: Callable[[str], Any], keys: Sequence[str]) -> None:
    for key in keys:
        with acquire(key):
            pass


def _shuffled(count: int) -> list[int]:
    """Return the numbers below *count* in an order that no cache line foresees."""
    return random.Random(2).sample(range(count), count)


def _filled(names: Iterable[str], keys: Sequence[str]) -> dict[str, Subject]:
    """Return caches that hold exactly these keys."""
    full = subjects(names, len(keys))
    for name, subject in full.items():
        subject.fill(keys)
        answers = [subject.get(key) for key in keys]
        if sum((answer[1] if subject.answers_pairs else answer is not None) for answer in answers) != len(keys):
            raise RuntimeError(f"{name} does not hold what it was given")
    return full


def _again(loop: Callable[..., object], call: Any, asked: Sequence[Any]) -> Slice:
    """Return a slice that runs the loop twice and times the second."""
    loop = own(loop)

    def run() -> float:
        loop(call, asked)
        return timed(loop, call, asked) / len(asked)

    return run


def _anew(loop: Callable[..., object], call: Any, primer: Sequence[Any], make: Callable[[int], Any]) -> Slice:
    """Return a slice that runs the loop with *primer*, then times it with equal objects that are new."""
    loop, order = own(loop), _shuffled(ENTRIES)

    def run() -> float:
        loop(call, primer)
        return timed(loop, call, [make(number) for number in order]) / ENTRIES

    return run


def loops() -> Row:
    keys = hashed(_shuffled(ENTRIES))
    empty = own(_empty)
    return Row("loop", {"empty": lambda: timed(empty, keys) / ENTRIES, "with a call of id()": _again(_each, id, keys)})


def get_hit() -> Row:
    names = (*OURS, "dict", "functools.lru_cache", *LRU_FAMILY, *REST)
    keys = hashed(_shuffled(ENTRIES))
    full = _filled(names, random.Random(3).sample(keys, ENTRIES))
    return Row("get hit", {name: _again(_each, subject.get, keys) for name, subject in full.items()})


def get_hit_small() -> Row:
    """Ask in a cache of 100 entries, where a policy that samples has little to sample from."""
    keys = hashed(_shuffled(SMALL))
    full = _filled((*OURS, "dict", "cachebox LRU", "moka-py", "theine nolock"), keys)
    asked = keys * (ENTRIES // SMALL)
    return Row("get hit, 100 entries", {name: _again(_each, subject.get, asked) for name, subject in full.items()})


def _wandering(get: Callable[[str], object], keys: Sequence[str]) -> Slice:
    """Return a slice of the next ENTRIES keys, which have left the processor's caches since the last time."""
    loop = own(_each)
    begins = itertools.cycle(range(0, len(keys), ENTRIES))

    def run() -> float:
        begin = next(begins)
        return timed(loop, get, keys[begin : begin + ENTRIES]) / ENTRIES

    return run


def get_hit_large() -> Row:
    """Ask in a cache of 100,000 entries, in an order in which no key comes soon again."""
    keys = hashed(_shuffled(LARGE))
    full = _filled((*OURS, "dict", "cachebox LRU", "moka-py", "theine nolock"), random.Random(4).sample(keys, LARGE))
    ways = {name: _wandering(subject.get, keys) for name, subject in full.items()}
    return Row("get hit, 100,000 entries", ways)


def get_hit_equal() -> Row:
    """Ask with keys that are equal to those held, are other objects, and know their hash."""
    names = (*OURS, "dict", "functools.lru_cache", *LRU_FAMILY, *REST)
    full, asked = _filled(names, hashed(range(ENTRIES))), hashed(_shuffled(ENTRIES))
    return Row("get hit, equal keys", {name: _again(_each, subject.get, asked) for name, subject in full.items()})


def get_hit_fresh() -> Row:
    """Ask with keys that are new strings, whose hash nobody has asked for."""
    names = (*OURS, "dict", "functools.lru_cache", *LRU_FAMILY, *REST)
    keys = hashed(_shuffled(ENTRIES))
    full = _filled(names, keys)
    return Row("get hit, fresh keys", {name: _anew(_each, full[name].get, keys, joined) for name in full})


def get_miss() -> Row:
    full = _filled((*OURS, "dict", *LRU_FAMILY, *REST), hashed(range(ENTRIES)))
    absent = hashed(number + ENTRIES for number in _shuffled(ENTRIES))
    return Row("get miss", {name: _again(_each, subject.get, absent) for name, subject in full.items()})


def get_hit_ttl() -> Row:
    keys = hashed(_shuffled(ENTRIES))
    full = _filled(WITH_TTL, keys)
    return Row("get hit, TTL", {name: _again(_each, subject.get, keys) for name, subject in full.items()})


def _mix(name: str, subject: Subject, keys: Sequence[str], requests: Sequence[int]) -> Slice:
    """Return a slice of the next SLICE requests; all contenders get the same ones."""
    loop = own(_each_get_or_set_pairs if subject.answers_pairs else _each_get_or_set)
    call: Any = subject
    if name == "functools.lru_cache":
        loop, call = own(lambda subject, asked, _value: _each(subject.get, asked)), subject
    loop(call, [keys[number] for number in requests[:WARM_UP]], VALUE)
    begins = itertools.cycle(range(WARM_UP, len(requests), SLICE))

    def run() -> float:
        begin = next(begins)
        asked = [keys[number] for number in requests[begin : begin + SLICE]]
        return timed(loop, call, asked, VALUE) / len(asked)

    return run


def mix() -> Row:
    names = (*OURS, "dict", "functools.lru_cache", *LRU_FAMILY, *REST)
    keys, requests = hashed(range(UNIVERSE)), zipf(UNIVERSE, 0.99, WARM_UP + 100 * SLICE)
    empty = subjects(names, ENTRIES)
    return Row("get or set, zipf", {name: _mix(name, empty[name], keys, requests) for name in empty})


def _evicting(subject: Subject) -> Slice:
    loop = own(_each_set)
    numbers = itertools.count(ENTRIES)

    def run() -> float:
        keys = hashed(itertools.islice(numbers, ENTRIES))
        return timed(loop, subject.set, keys, VALUE) / ENTRIES

    return run


def set_evict() -> Row:
    full = _filled((*OURS, *LRU_FAMILY, *REST), hashed(range(ENTRIES)))
    return Row("set that evicts", {name: _evicting(subject) for name, subject in full.items()})


def set_evict_ttl() -> Row:
    full = _filled(WITH_TTL, hashed(range(ENTRIES)))
    return Row("set that evicts, TTL", {name: _evicting(subject) for name, subject in full.items()})


def _writing(loop: Callable[..., object], call: Any, keys: Sequence[str]) -> Slice:
    """Return a slice that writes a new value to every key, which it has done once before."""
    loop = own(loop)

    def run() -> float:
        loop(call, keys, object())
        return timed(loop, call, keys, object()) / len(keys)

    return run


def set_update() -> Row:
    keys = hashed(_shuffled(ENTRIES))
    full = _filled((*OURS, "dict", *LRU_FAMILY, *REST), keys)
    return Row("set update", {name: _writing(_each_set, subject.set, keys) for name, subject in full.items()})


def delete_set() -> Row:
    keys = hashed(_shuffled(ENTRIES))
    full = _filled((*OURS, "dict", *LRU_FAMILY, *REST), keys)
    return Row("delete and set", {name: _writing(_each_delete_set, subject, keys) for name, subject in full.items()})


def _ways(parts: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Callable[..., object], Any]]:
    """Yield the ways of asking for a key of two parts: name, loop and what it calls."""
    for name, subject in subjects(OURS, ENTRIES).items():
        for a, b in parts:
            subject.cache.set2(a, b, VALUE)
        yield f"{name}: get2", _each_two, subject.cache.get2
        if name == "bridgecore":
            yield f"{name}: get of a tuple", _each_tuple, subject.get
    joining = _filled(("bridgecore", "cachebox LRU", "moka-py", "dict"), ["|".join(part) for part in parts])
    for name, subject in joining.items():
        yield f"{name}: join, then get", _each_join, subject.get
    for name, subject in subjects(("cachebox LRU", "dict"), ENTRIES).items():
        for part in parts:
            subject.set(part, VALUE)
        yield f"{name}: get of a tuple", _each_tuple, subject.get


def get_two() -> Row:
    parts = [pair(number) for number in _shuffled(ENTRIES)]
    return Row("get of two parts", {name: _again(loop, call, parts) for name, loop, call in _ways(parts)})


def get_two_fresh() -> Row:
    """Ask with parts that are new strings, whose hash nobody has asked for."""
    parts = [pair(number) for number in _shuffled(ENTRIES)]
    ways = {name: _anew(loop, call, parts, pair) for name, loop, call in _ways(parts)}
    return Row("get of two fresh parts", ways)


def lease() -> Row:
    keys = hashed(_shuffled(ENTRIES))
    full = _filled(OURS, keys)
    ways = {f"{name}: acquire, release": _again(_each_release, full[name].cache.acquire, keys) for name in full}
    ways["bridgecore: with acquire"] = _again(_each_with, full["bridgecore"].cache.acquire, keys)
    ways["bridgecore: get"] = _again(_each, full["bridgecore"].get, keys)
    return Row("lease", ways)


def _crowd(get: Callable[[str], object], keys: Sequence[str], count: int = THREADS) -> Slice:
    """Return a slice in which so many threads get at the same time: elapsed time by all their gets."""
    loop, asked = own(_each), list(keys) * (GETS_A_THREAD // len(keys))

    def run() -> float:
        barrier = threading.Barrier(count)
        starts, ends = [], []

        def work() -> None:
            barrier.wait()
            starts.append(time.perf_counter_ns())
            loop(get, asked)
            ends.append(time.perf_counter_ns())

        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (max(ends) - min(starts)) / (count * len(asked))

    return run


def threads_get() -> Row:
    keys = hashed(_shuffled(ENTRIES))
    full = _filled((*OURS, "dict", *LRU_FAMILY, *REST), keys)
    ways = {name: _crowd(subject.get, keys) for name, subject in full.items()}
    ways["bridgecore, 1 thread"] = _crowd(full["bridgecore"].get, keys, 1)
    return Row("get hit, 4 threads", ways, rounds=5)


ROWS: Sequence[Callable[[], Row]] = (
    loops,
    get_hit,
    get_hit_equal,
    get_hit_fresh,
    get_hit_small,
    get_hit_large,
    get_miss,
    get_hit_ttl,
    mix,
    set_evict,
    set_evict_ttl,
    set_update,
    delete_set,
    get_two,
    get_two_fresh,
    lease,
    threads_get,
)
