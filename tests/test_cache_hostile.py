"""Keys, values, listeners, clocks and threads that do the worst they can."""

import gc
import itertools
import math
import os
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from bridgecore import Cache, Cause, Closed, Outcome
from reference import ReferenceCache

AnyCache = Cache[Any, Any]
Exit = tuple[Any, Any, Cause]


class Ledger:
    """A listener that writes down what left."""

    def __init__(self) -> None:
        self.exits: list[Exit] = []

    def __call__(self, key: Any, value: Any, cause: Cause) -> None:
        self.exits.append((key, value, cause))


class Lab:
    """Makes caches of one kind and audits them at the end."""

    def __init__(self, kind: Callable[..., Any]) -> None:
        self.kind = kind
        self.exits: list[Exit] = []
        self.caches: list[AnyCache] = []

    def note(self, key: Any, value: Any, cause: Cause) -> None:
        """Be the listener."""
        self.exits.append((key, value, cause))

    def make(self, max_cost: int = 10, **options: Any) -> AnyCache:
        """Return a new cache."""
        made = self.kind(max_cost, **{"on_exit": self.note, "seed": 1, **options})
        self.caches.append(cast("AnyCache", made))
        return self.caches[-1]


@pytest.fixture(params=[Cache, ReferenceCache], ids=["cython", "reference"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A maker of caches of either kind."""
    lab = Lab(request.param)
    yield lab
    for cache in lab.caches:
        cache.audit()
        assert cache.cost <= cache.max_cost


class Key:
    """A key that can be told what to do when it is compared or hashed; all of them have one hash."""

    def __init__(self, name: object) -> None:
        self.name = name
        self.on_eq: Callable[[], object] = int
        self.on_hash: Callable[[], object] = int

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key):
            return False
        self.on_eq()
        other.on_eq()
        return self.name == other.name

    def __hash__(self) -> int:
        self.on_hash()
        return 7


class Burst(Exception):
    """What the hostile raise."""


def burst(*_: object) -> Any:
    """Raise."""
    raise Burst


USES: dict[str, Callable[[AnyCache, Any], object]] = {
    "get": lambda cache, key: cache.get(key),
    "get2": lambda cache, key: cache.get2(key, "part"),
    "set": lambda cache, key: cache.set(key, "new"),
    "set2": lambda cache, key: cache.set2(key, "part", "new"),
    "acquire": lambda cache, key: cache.acquire(key),
    "set_and_acquire": lambda cache, key: cache.set_and_acquire(key, "new"),
    "touch": lambda cache, key: cache.touch(key, 5),
    "delete": lambda cache, key: cache.delete(key),
    "delete2": lambda cache, key: cache.delete2(key, "part"),
    "in": lambda cache, key: key in cache,
}


def with_both_keys(lab: Lab, **options: Any) -> AnyCache:
    """Return a cache that holds the key named "a", and that with a second part."""
    cache = lab.make(**options)
    cache.set(Key("a"), "old")
    cache.set2(Key("a"), "part", "old")
    return cache


# Keys


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("where", ["on_eq", "on_hash"])
def test_a_key_that_raises_changes_nothing(lab: Lab, use: str, where: str) -> None:
    """What it raises comes out of the call."""
    cache = with_both_keys(lab)
    before = cache.stats()
    key = Key("a")
    setattr(key, where, burst)
    with pytest.raises(Burst):
        USES[use](cache, key)
    assert cache.stats() == before
    assert lab.exits == []
    assert cache.get(Key("a")) == cache.get2(Key("a"), "part") == "old"


def test_a_key_that_is_held_and_raises_is_not_stuck(lab: Lab) -> None:
    """The cache can still be cleared, and the other keys of that hash be found once it stops."""
    cache = lab.make()
    held = Key("a")
    cache.set(held, 1)
    held.on_eq = burst
    assert cache.get(held) == 1
    with pytest.raises(Burst):
        cache.get(Key("b"))
    with pytest.raises(Burst):
        cache.set(Key("b"), 2)
    held.on_eq = int
    assert cache.set(Key("b"), 2) is Outcome.ADDED
    held.on_eq = burst
    cache.clear()
    assert len(lab.exits) == 2


REENTRIES: dict[str, Callable[[AnyCache], object]] = {
    "get": lambda cache: cache.get("other"),
    "set": lambda cache: cache.set("other", object()),
    "set of the key": lambda cache: cache.set(Key("a"), "inner"),
    "delete of the key": lambda cache: cache.delete(Key("a")),
    "clear": lambda cache: cache.clear(),
    "expire": lambda cache: cache.expire(),
    "max_cost": lambda cache: setattr(cache, "max_cost", 1),
    "items": lambda cache: cache.items(),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("reentry", REENTRIES)
@pytest.mark.parametrize("where", ["on_eq", "on_hash"])
def test_a_key_that_comes_back_into_the_cache(lab: Lab, use: str, reentry: str, where: str) -> None:
    """Whatever it does there once, the call ends, and every value leaves once."""
    cache = with_both_keys(lab)
    cache.set("other", "other")
    key = Key("a")
    calls = iter([REENTRIES[reentry]])

    def once() -> None:
        for call in calls:
            call(cache)

    setattr(key, where, once)
    result: Any = USES[use](cache, key)
    if hasattr(result, "release"):
        result.release()
    del result
    cache.audit()
    cache.close()
    stats = cache.stats()
    assert sum(stats.exits.values()) == len(lab.exits) == stats.added + stats.updated
    assert stats.leases == stats.retired == 0


@pytest.mark.parametrize("use", USES)
def test_a_key_that_keeps_changing_the_cache_is_given_up(lab: Lab, use: str) -> None:
    """After 16 attempts, with a RuntimeError, and the call has changed nothing."""
    cache = with_both_keys(lab, max_cost=1000)
    numbers = itertools.count()
    key = Key("a")
    key.on_eq = lambda: cache.set(next(numbers), "filler")
    with pytest.raises(RuntimeError):
        USES[use](cache, key)
    assert next(numbers) == 16
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.updated, stats.leases) == (0, 0, 0, 0)
    assert lab.exits == []


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("where", ["on_eq", "on_hash"])
def test_a_key_that_closes_the_cache(lab: Lab, use: str, where: str) -> None:
    """The call finds it closed; everything has left."""
    cache = with_both_keys(lab)
    key = Key("a")
    setattr(key, where, cache.close)
    with pytest.raises((Closed, RuntimeError)):
        USES[use](cache, key)
    assert [cause for *_, cause in lab.exits] == [Cause.CLOSED] * 2
    assert len(cache) == 0


def test_a_key_that_deletes_itself_while_it_is_found(lab: Lab) -> None:
    """The value it had is not handed out again from a place that was freed."""
    cache = lab.make()
    held, asked = Key("a"), Key("a")
    cache.set(held, "old")
    asked.on_eq = lambda: cache.delete(held)
    assert cache.get(asked) is None
    assert lab.exits == [(held, "old", Cause.DELETED)]


def test_many_keys_with_one_hash(lab: Lab) -> None:
    """They are slow, and right."""
    cache = lab.make(300)
    for number in range(300):
        assert cache.set(Key(number), number) is Outcome.ADDED
    assert all(cache.get(Key(number)) == number for number in range(300))
    assert all(cache.delete(Key(number)) for number in range(0, 300, 2))
    assert all((cache.get(Key(number)) is None) == (number % 2 == 0) for number in range(300))
    cache.audit()


# Values


@pytest.mark.parametrize("reentry", REENTRIES)
@pytest.mark.parametrize("how", ["delete", "clear", "evict", "replace", "close", "expire"])
def test_a_value_whose_end_comes_back_into_the_cache(lab: Lab, reentry: str, how: str) -> None:
    """Its destructor runs when the change is done, and may do what it likes."""
    now = 0.0
    cache = lab.make(on_exit=None, clock=lambda: now)
    ends: list[str] = []

    class Value:
        """Something that does not go quietly."""

        def __del__(self) -> None:
            ends.append(reentry)
            try:
                REENTRIES[reentry](cache)
            except Closed:
                ends.append("closed")

    for number in range(5):
        cache.set(number, Value(), 2, ttl=1)
    if how == "delete":
        cache.delete(0)
    elif how == "clear":
        cache.clear()
    elif how == "evict":
        cache.set("big", 1, 10)
    elif how == "replace":
        cache.set(0, 1)
    elif how == "close":
        cache.close()
    else:
        now = 10.0
        cache.expire()
    assert ends
    cache.audit()
    assert cache.cost <= cache.max_cost
    cache.close()
    gc.collect()
    assert ends.count(reentry) == 5


def test_a_key_whose_end_comes_back_into_the_cache(lab: Lab) -> None:
    """Keys die like values."""
    cache = lab.make(on_exit=None)

    class Dying(Key):
        """A key that sets another."""

        __hash__ = Key.__hash__

        def __del__(self) -> None:
            if not cache.is_closed:
                cache.set("from the grave", 1)

    cache.set(Dying("a"), 1)
    cache.delete(Dying("a"))
    assert cache.get("from the grave") == 1
    cache.close()


def test_a_cycle_through_the_cache_is_collected(lab: Lab) -> None:
    """Cache -> value -> cache; the values leave as CLOSED, once."""
    ledger = Ledger()

    class Handler:
        """Something that knows its pool."""

        pool: Any = None

    def build() -> Callable[[], object]:
        cache = lab.kind(10, on_exit=ledger)
        handler = Handler()
        handler.pool = cache
        cache.set("a", handler)
        cache.set("b", handler.pool)
        return weakref.ref(handler)

    handler = build()
    gc.collect()
    gc.collect()
    assert handler() is None
    assert [cause for *_, cause in ledger.exits] == [Cause.CLOSED] * 2
    assert gc.garbage == []


def test_a_cycle_through_a_listener_and_a_lease_is_collected(lab: Lab) -> None:
    """The listener and the value may both hold the cache, and the value the lease on itself."""
    gone: list[str] = []

    class Owner:
        """A pool: its listener is its own method."""

        def __init__(self) -> None:
            self.cache = lab.kind(10, on_exit=self.on_exit)
            self.lease: Any = None

        def on_exit(self, key: str, _value: object, cause: Cause) -> None:
            """Be the listener."""
            gone.append(f"{key} {cause.value}")

    def build() -> Callable[[], object]:
        owner = Owner()
        owner.cache.set("a", owner)
        owner.lease = owner.cache.acquire("a")
        return weakref.ref(owner)

    owner = build()
    with pytest.warns(ResourceWarning):
        gc.collect()
    assert owner() is None
    assert gone == ["a closed"]


def test_a_dropped_cache_lets_everything_go(lab: Lab) -> None:
    """As CLOSED, with the leases that are out still good."""
    ledger = Ledger()
    cache = lab.kind(10, on_exit=ledger)
    cache.set("a", 1)
    cache.set("b", 2, 0)
    del cache
    gc.collect()
    assert sorted(ledger.exits) == [("a", 1, Cause.CLOSED), ("b", 2, Cause.CLOSED)]


def test_a_lease_outlives_the_cache(lab: Lab) -> None:
    """The value stays until it is given back, even when nobody else knows the cache."""
    ledger = Ledger()
    cache = lab.kind(10, on_exit=ledger)
    cache.set("a", 1)
    lease = cache.acquire("a")
    del cache
    gc.collect()
    assert lease.value == 1
    assert ("a", 1, Cause.CLOSED) not in ledger.exits
    lease.release()
    del lease
    gc.collect()
    assert ledger.exits == [("a", 1, Cause.CLOSED)]


# Listeners


def test_a_listener_that_raises_is_reported_and_the_others_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that made the values leave does not fail."""
    reports: list[type[BaseException]] = []

    def hook(report: "sys.UnraisableHookArgs") -> None:
        reports.append(report.exc_type)

    monkeypatch.setattr(sys, "unraisablehook", hook)
    keys: list[str] = []

    def listener(key: str, _value: object, _cause: Cause) -> None:
        keys.append(key)
        raise Burst

    cache = lab.make(on_exit=listener)
    for key in "abc":
        cache.set(key, 1)
    assert cache.clear() == 1
    assert sorted(keys) == ["a", "b", "c"]
    assert reports == [Burst] * 3
    assert cache.stats().listener_errors == 3
    assert cache.set("d", 1) is Outcome.ADDED
    cache.reset_stats()
    assert cache.stats().listener_errors == 0
    cache.close()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_listener_that_is_interrupted_passes_it_on_at_the_end(lab: Lab, kind: type[BaseException]) -> None:
    """All others have been called by then, and the change is done."""
    keys: list[str] = []

    def listener(key: str, _value: object, _cause: Cause) -> None:
        keys.append(key)
        if len(keys) == 1:
            raise kind

    cache = lab.make(on_exit=listener)
    for key in "abc":
        cache.set(key, 1)
    with pytest.raises(kind):
        cache.clear()
    assert sorted(keys) == ["a", "b", "c"]
    assert len(cache) == 0
    assert cache.set("d", 1) is Outcome.ADDED
    cache.close()
    assert keys[3:] == ["d"]


def use_and_release(cache: AnyCache, _: object) -> None:
    """Lease everything there may be, and give it back."""
    for lease in [cache.acquire(number) for number in range(9)]:
        if lease is not None:
            lease.release()


LISTENERS: dict[str, Callable[[AnyCache, Any], object]] = {
    "set": lambda cache, key: cache.set((key, "again"), 1),
    "set of the key": lambda cache, key: cache.set(key, object()),
    "delete": lambda cache, _: cache.delete(0),
    "clear": lambda cache, _: cache.clear(),
    "close": lambda cache, _: cache.close(),
    "acquire": use_and_release,
    "lower": lambda cache, _: setattr(cache, "max_cost", max(1, cache.max_cost - 1)),
    "expire": lambda cache, _: cache.expire(),
}


@pytest.mark.parametrize("what", LISTENERS)
def test_a_listener_that_comes_back_into_the_cache(lab: Lab, what: str) -> None:
    """Exits that it causes come after it has returned, and none is lost."""
    depth = most = calls = 0

    def listener(key: Any, _: object, cause: Cause) -> None:
        nonlocal depth, most, calls
        depth, calls = depth + 1, calls + 1
        most = max(most, depth)
        if calls < 40 and not cache.is_closed:
            LISTENERS[what](cache, key)
        depth -= 1
        lab.note(key, None, cause)

    cache = lab.make(5, on_exit=listener)
    for number in range(12):
        if not cache.is_closed:
            cache.set(number, number)
    cache.close()
    stats = cache.stats()
    assert most == 1
    assert calls == sum(stats.exits.values()) == len(lab.exits) == stats.added + stats.updated


def test_a_listener_that_sees_the_cache_after_the_change(lab: Lab) -> None:
    """What left is not there any more, and what came is."""
    seen: list[tuple[Any, int]] = []

    def listener(key: str, _value: object, _cause: Cause) -> None:
        seen.append((cache.get(key), len(cache)))

    cache = lab.make(on_exit=listener)
    cache.set("a", 1)
    cache.set("a", 2)
    cache.delete("a")
    assert seen == [(2, 1), (None, 0)]


def test_an_exit_from_another_thread_is_delivered_by_the_one_at_it(lab: Lab) -> None:
    """One listener runs at a time, and the other thread does not wait for it."""
    entered, go = threading.Event(), threading.Event()
    by: list[tuple[str, str]] = []

    def listener(key: str, _value: object, _cause: Cause) -> None:
        by.append((key, threading.current_thread().name))
        if key == "a":
            entered.set()
            assert go.wait(10)

    cache = lab.make(on_exit=listener)
    cache.set("a", 1)
    cache.set("b", 2)
    thread = threading.Thread(target=cache.delete, args=("a",), name="first")
    thread.start()
    assert entered.wait(10)
    assert cache.delete("b")
    assert [key for key, _ in by] == ["a"]
    go.set()
    thread.join(10)
    assert by == [("a", "first"), ("b", "first")]


# Clocks


def test_a_clock_that_raises_changes_nothing(lab: Lab) -> None:
    """What it raises comes out of the call."""
    is_broken = False
    cache = lab.make(clock=lambda: burst() if is_broken else 1.0)
    cache.set("a", 1, ttl=5)
    is_broken = True
    before = cache.stats()
    calls: list[Callable[[], object]] = [
        lambda: cache.get("a"),
        lambda: cache.set("a", 2),
        lambda: cache.delete("a"),
        lambda: cache.touch("a"),
        cache.expire,
        cache.items,
        lambda: "a" in cache,
        lambda: cache.acquire("a"),
    ]
    for call in calls:
        with pytest.raises(Burst):
            call()
    assert cache.stats() == before
    assert cache.clear() == 1
    assert lab.exits == [("a", 1, Cause.CLEARED)]


@pytest.mark.parametrize("reading", [math.nan, math.inf, -math.inf, "noon", None])
def test_a_clock_that_shows_no_time_changes_nothing(lab: Lab, reading: Any) -> None:
    """Such a reading is an error, not the end of everything."""
    now: list[Any] = [1.0]
    cache = lab.make(clock=lambda: now[0])
    cache.set("a", 1, ttl=5)
    now[0] = reading
    with pytest.raises((ValueError, TypeError)):
        cache.get("a")
    now[0] = 2.0
    assert cache.get("a") == 1


def test_a_clock_that_comes_back_into_the_cache(lab: Lab) -> None:
    """It runs before anything is looked up or changed."""
    calls = iter(("delete of the key", "set of the key", "clear"))
    is_armed = False

    def clock() -> float:
        nonlocal is_armed
        if is_armed:
            is_armed = False
            REENTRIES[next(calls)](cache)
        return 1.0

    cache: AnyCache = lab.make(clock=clock)
    cache.set(Key("a"), 1, ttl=5)
    cache.set("z", 1, ttl=5)
    for expected in (None, "inner", None):
        is_armed = True
        assert cache.get(Key("a")) == expected
    cache.close()
    stats = cache.stats()
    assert len(lab.exits) == stats.added + stats.updated


def test_a_cost_and_a_time_that_come_back_into_the_cache(lab: Lab) -> None:
    """The numbers are converted before anything is changed."""

    class Number:
        """A number that clears the cache when it is asked for its value."""

        def __index__(self) -> int:
            cache.clear()
            return 2

        def __float__(self) -> float:
            cache.clear()
            return 2.0

    cache = lab.make()
    number = cast("int", Number())
    cache.set("a", 1)
    assert cache.set("a", 2, number, number) is Outcome.ADDED
    assert cache.cost == 2
    assert cache.touch("a", number) is False
    cache.set("a", 3)
    generation = cache.generation
    assert cache.set("a", 4, generation=number) is (Outcome.STALE if generation + 1 > 2 else Outcome.ADDED)
    cache.close()
    stats = cache.stats()
    assert len(lab.exits) == sum(stats.exits.values())


# Threads, forks and floods; the reference is for one thread only


class Handler:
    """A value that knows who uses it and when it left."""

    def __init__(self) -> None:
        self.users = 0
        self.exits = 0


def hammer(cache: AnyCache, seed: int, made: list[Handler], until: float) -> None:
    """Do everything with a few keys, and look at each handler that is in use."""
    numbers = itertools.count(seed)
    while time.monotonic() < until:
        number = next(numbers) * 7919 % 101
        key = f"user {number % 23}"
        lease = cache.acquire(key)
        if lease is None:
            handler = Handler()
            made.append(handler)
            cost, generation = number % 4, cache.generation
            lease = cache.set_and_acquire(key, handler, cost, 0.002 if number % 5 == 0 else None, generation)
        with lease as handler:
            handler.users += 1
            assert handler.exits == 0
            cache.get(key)
            handler.users -= 1
        if number == 1:
            cache.clear()
        elif number % 10 == 2:
            cache.delete(key)
        elif number == 3:
            cache.expire(5)
        elif number == 4:
            cache.max_cost = 5 + number % 20
        elif number == 5:
            cache.items()
            cache.stats()
        assert cache.cost <= 24


def test_eight_threads_and_a_balanced_ledger() -> None:
    """Every value leaves exactly once, and never while somebody uses it."""
    made: list[Handler] = []

    def listener(_key: str, handler: Handler, _cause: Cause) -> None:
        handler.exits += 1
        assert handler.users == 0

    cache: AnyCache = Cache(20, on_exit=listener)
    errors: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            hammer(cache, seed * 13, made, time.monotonic() + 1.5)
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    cache.audit()
    cache.close()
    stats = cache.stats()
    assert Counter(handler.exits for handler in made) == {1: len(made)}
    assert stats.listener_errors == stats.leases == stats.retired == 0
    assert sum(stats.exits.values()) == len(made) > 100


def test_a_lease_against_a_clear_in_every_order() -> None:
    """Whoever has a lease can use the value until it is back, however often another thread clears."""
    made: list[Handler] = []

    def listener(_key: str, handler: Handler, _cause: Cause) -> None:
        handler.exits += 1

    cache: AnyCache = Cache(20, on_exit=listener)
    is_over = threading.Event()

    def clear() -> None:
        while not is_over.is_set():
            cache.clear()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=clear)
    thread.start()
    refused = 0
    try:
        for _ in range(3000):
            lease = cache.acquire("a")
            if lease is None:
                made.append(Handler())
                lease = cache.set_and_acquire("a", made[-1], generation=cache.generation)
                refused += lease.outcome is Outcome.STALE
            with lease as handler:
                assert handler.exits == 0
    finally:
        is_over.set()
        thread.join(10)
        sys.setswitchinterval(interval)
    cache.close()
    assert Counter(handler.exits for handler in made) == {1: len(made)}


def use_until_closed(cache: AnyCache, start: threading.Barrier, made: list[object], ends: list[object]) -> None:
    """Set value after value, and write down how that ended."""
    start.wait(10)
    try:
        for number in itertools.count():
            value = object()
            cache.set(number % 7, value)
            made.append(value)
    except BaseException as error:
        ends.append(type(error))


def test_close_against_use() -> None:
    """Threads that are at it get Closed, and nothing else; no value is lost."""
    for _ in range(30):
        ledger = Ledger()
        cache: AnyCache = Cache(5, on_exit=ledger)
        made: list[object] = []
        ends: list[object] = []
        start = threading.Barrier(4)
        threads = [threading.Thread(target=use_until_closed, args=(cache, start, made, ends)) for _ in range(3)]
        for thread in threads:
            thread.start()
        start.wait(10)
        cache.close()
        for thread in threads:
            thread.join(10)
        assert ends == [Closed] * 3
        assert Counter(id(value) for _, value, _ in ledger.exits) == Counter(map(id, made))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_process_has_a_cache_of_its_own() -> None:
    """What it does to it is not seen by the parent, and it can use, clear and close it."""
    ledger = Ledger()
    cache: AnyCache = Cache(10, on_exit=ledger)
    cache.set("a", 1)
    cache.set("b", 2)
    lease = cache.acquire("b")
    assert lease is not None
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert cache.get("a") == 1
            cache.set("c", 3)
            cache.clear()
            lease.release()
            cache.audit()
            cache.close()
            assert len(ledger.exits) == 3
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert sorted(cache) == ["a", "b"]
    assert ledger.exits == []
    lease.release()
    cache.close()


def test_a_flood_of_exits_does_not_nest() -> None:
    """A listener that sets for every exit, ten thousand times, needs no deep stack."""
    left = 10_000

    def listener(key: int, _value: object, cause: Cause) -> None:
        nonlocal left
        if cause is Cause.EVICTED and left:
            left -= 1
            cache.set(key + 1, None)

    cache: AnyCache = Cache(1, on_exit=listener)
    cache.set(0, None)
    cache.set(-1, None)
    assert left == 0
    assert cache.cost == 1
    cache.audit()


def test_a_chain_of_values_that_hold_caches_ends_flat() -> None:
    """A thousand caches, each the value of the one before, go without a crash."""
    caches: list[AnyCache] = [Cache(1)]
    for _ in range(20_000):
        outer: AnyCache = Cache(1)
        outer.set("inner", caches.pop())
        caches.append(outer)
        del outer
    caches.clear()
    gc.collect()


# Scripts that need an interpreter of their own
