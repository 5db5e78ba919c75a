"""What caches elsewhere got right or wrong, asked of ours; every test ends with a look through its structures."""

import gc
import math
import random
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from bridgecore import Cache, Cause, Closed, Outcome
from reference import ReferenceCache

TICK_S = 2**30 / 1e9
LATER_S = 2 * TICK_S


class Lab:
    """Makes caches of one kind that share a clock and write down what left."""

    def __init__(self, kind: Callable[..., Any]) -> None:
        self.kind = kind
        self.now = 1000.0
        self.reads = 0
        self.exits: list[tuple[Any, Any, Cause]] = []
        self.caches: list[Cache[Any, Any]] = []

    def clock(self) -> float:
        """Be the clock."""
        self.reads += 1
        return self.now

    def note(self, key: Any, value: Any, cause: Cause) -> None:
        """Be the listener."""
        self.exits.append((key, value, cause))

    def make(self, max_cost: int = 10, **options: Any) -> Cache[Any, Any]:
        """Return a new cache."""
        made = self.kind(max_cost, **{"on_exit": self.note, "clock": self.clock, "seed": 1, **options})
        self.caches.append(made)
        return cast("Cache[Any, Any]", made)

    def taken(self) -> list[tuple[Any, Any, Cause]]:
        """Return what left since the last time."""
        exits = self.exits[:]
        self.exits.clear()
        return exits


@pytest.fixture(params=[Cache, ReferenceCache], ids=["cython", "reference"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A maker of caches of either kind; they are audited at the end."""
    lab = Lab(request.param)
    yield lab
    for cache in lab.caches:
        cache.audit()
        assert cache.cost <= cache.max_cost


def fill(cache: Cache[Any, Any], count: int, **options: Any) -> None:
    """Set the keys from 0 on, each to its own number."""
    for number in range(count):
        cache.set(number, number, **options)


# ristretto: what a set, a get and a delete are


def test_a_value_is_there_at_once(lab: Lab) -> None:
    """No buffer, no goroutine, no waiting."""
    cache = lab.make()
    assert cache.set("a", 1) is Outcome.ADDED
    assert cache.get("a") == 1
    assert "a" in cache
    assert len(cache) == 1


def test_the_last_of_two_sets_wins(lab: Lab) -> None:
    """The first value leaves, once."""
    cache = lab.make()
    cache.set("a", 1)
    assert cache.set("a", 2) is Outcome.UPDATED
    assert cache.get("a") == 2
    assert lab.exits == [("a", 1, Cause.REPLACED)]


def test_a_newcomer_is_never_lost_however_popular_the_others_are(lab: Lab) -> None:
    """Admission happens on leaving the window, so a value that was just set can be had."""
    cache = lab.make(5)
    fill(cache, 5)
    for _ in range(20):
        for number in range(5):
            cache.get(number)
    for number in range(100, 120):
        assert cache.set(number, number) is Outcome.ADDED
        assert cache.get(number) == number
        assert cache.cost == 5


def test_a_miss_is_the_default(lab: Lab) -> None:
    """None, or what the caller gave; a value of None is no miss."""
    cache = lab.make()
    missing = object()
    assert cache.get("a") is None
    assert cache.get("a", missing) is missing
    cache.set("a", None)
    assert cache.get("a", missing) is None
    assert cache.get2("a", "b", missing) is missing


def test_delete_lets_a_value_go_once(lab: Lab) -> None:
    """It says whether there was one, and nothing leaves for a key that is not there."""
    cache = lab.make()
    cache.set("a", 1)
    assert cache.delete("a")
    assert not cache.delete("a")
    assert lab.exits == [("a", 1, Cause.DELETED)]
    assert cache.get("a") is None


def test_the_counters_after_one_hit_and_one_miss(lab: Lab) -> None:
    """Looking without using counts nothing."""
    cache = lab.make()
    cache.set("a", 1)
    cache.get("a")
    cache.get("b")
    assert "a" in cache
    assert list(cache) == ["a"]
    assert cache.items() == [("a", 1)]
    assert cache.touch("a")
    assert cache.delete("a")
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.added, stats.updated) == (1, 1, 1, 0)
    assert stats.exits == {cause: int(cause is Cause.DELETED) for cause in Cause}


def test_reset_stats_leaves_what_is_held(lab: Lab) -> None:
    """The counters are zero, the sizes are not."""
    cache = lab.make()
    fill(cache, 3, cost=2)
    cache.get(0)
    cache.get("no")
    cache.delete(2)
    with_lease = cache.acquire(1)
    cache.reset_stats()
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.added, stats.updated, sum(stats.exits.values())) == (0, 0, 0, 0, 0)
    assert (stats.entries, stats.cost, stats.max_cost, stats.leases) == (2, 4, 10, 1)
    assert with_lease is not None
    with_lease.release()


def test_clear_keeps_the_counters(lab: Lab) -> None:
    """Counters are reset when asked, and not before."""
    cache = lab.make()
    cache.set("a", 1)
    cache.get("a")
    cache.clear()
    assert cache.stats().hits == 1
    assert cache.stats().entries == cache.cost == len(cache) == 0


def test_iteration_passes_over_the_expired_and_shows_each_once(lab: Lab) -> None:
    """It is a snapshot: changes made meanwhile do not disturb it."""
    cache = lab.make()
    fill(cache, 5)
    cache.set(9, 9, ttl=1)
    assert sorted(cache) == [0, 1, 2, 3, 4, 9]
    lab.now += 1
    seen: list[int] = []
    for key in cache:
        seen.append(key)
        cache.delete(key)
        cache.set(key + 100, key)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert sorted(cache.items()) == [(number + 100, number) for number in range(5)]


def test_equal_hashes_are_not_equal_keys(lab: Lab) -> None:
    """-1 and -2 have one hash in CPython, and are two keys all the same."""
    cache = lab.make()
    cache.set(-1, "one")
    assert cache.get(-2) is None
    assert not cache.delete(-2)
    cache.set(-2, "two")
    assert (cache.get(-1), cache.get(-2)) == ("one", "two")


def test_equal_keys_of_other_types_are_one(lab: Lab) -> None:
    """As in a dict; but text and bytes are two."""
    cache = lab.make()
    cache.set(1, "number")
    assert cache.get(1.0) == cache.get(True) == "number"
    cache.set("a", "text")
    assert cache.get(b"a") is None
    cache.set(b"a", "bytes")
    assert cache.get(memoryview(b"a")) == "bytes"
    assert len(cache) == 3


def test_two_parts_are_the_tuple_of_both(lab: Lab) -> None:
    """Either way finds the entry, and no other split of the same letters does."""
    cache = lab.make()
    assert cache.set2("a", "bc", 1) is Outcome.ADDED
    assert cache.get(("a", "bc")) == cache.get2("a", "bc") == 1
    assert cache.get2("ab", "c") is None
    assert cache.get2("a|b", "c") is None
    assert cache.get2("", "abc") is None
    assert cache.set(("a", "bc"), 2) is Outcome.UPDATED
    lease = cache.acquire2("a", "bc")
    assert lease is not None
    with lease as value:
        assert value == 2
    with cache.set_and_acquire2("x", "y", 3) as value:
        assert value == 3
    assert sorted(cache) == [("a", "bc"), ("x", "y")]
    assert cache.delete2("a", "bc")
    assert cache.delete(("x", "y"))
    assert len(cache) == 0


# ristretto, otter, Caffeine: costs


def test_costs_never_exceed_the_maximum_in_any_order(lab: Lab) -> None:
    """Not by one, after no call."""
    chance = random.Random(3)
    cache = lab.make(50)
    for _ in range(3000):
        cache.set(chance.randrange(60), object(), chance.choice([0, 1, 1, 2, 5, 25, 49, 50, 51]))
        if chance.random() < 0.02:
            cache.max_cost = chance.choice([1, 10, 49, 50, 80])
        assert cache.cost <= cache.max_cost
        assert cache.cost == cache.stats().cost


def test_a_cost_above_the_maximum_is_refused(lab: Lab) -> None:
    """The value leaves at once, and everything else stays, but for the value that it was to replace."""
    cache = lab.make()
    cache.set("a", 1)
    cache.set("b", 2, 9)
    assert cache.set("c", 3, 11) is Outcome.REJECTED
    assert lab.taken() == [("c", 3, Cause.REJECTED)]
    assert cache.set("a", 4, 2**63) is Outcome.REJECTED
    assert lab.taken() == [("a", 1, Cause.REPLACED), ("a", 4, Cause.REJECTED)]
    assert cache.items() == [("b", 2)]
    assert cache.cost == 9


def test_a_cost_of_exactly_the_maximum_evicts_all_others(lab: Lab) -> None:
    """One entry may have all the room."""
    cache = lab.make()
    fill(cache, 10)
    assert cache.set("big", 1, 10) is Outcome.ADDED
    assert list(cache) == ["big"]
    assert Counter(cause for *_, cause in lab.exits) == {Cause.EVICTED: 10}


def test_a_raised_cost_evicts_others_now(lab: Lab) -> None:
    """The entry itself stays; a lowered one gives the room back."""
    cache = lab.make()
    fill(cache, 10)
    assert cache.set(0, 0, 8) is Outcome.UPDATED
    assert cache.cost <= 10
    assert 0 in cache
    assert len(lab.exits) == 7
    cache.set(0, 0, 1)
    assert cache.cost == len(cache) == 3


def test_pinned_entries_are_never_evicted(lab: Lab) -> None:
    """They cost nothing, earn no place in the lists, and leave when asked to."""
    cache = lab.make(3)
    for number in range(50):
        cache.set(("pin", number), number, 0)
    for number in range(500):
        cache.set(number, number)
    stats = cache.stats()
    assert (stats.pinned, stats.entries, stats.cost) == (50, 53, 3)
    assert all(cache.get(("pin", number)) == number for number in range(50))
    assert cache.set(("pin", 0), 0, 2) is Outcome.UPDATED
    assert cache.stats().pinned == 49
    assert cache.cost == 3
    assert cache.set(("pin", 0), 0, 0) is Outcome.UPDATED
    assert cache.stats().pinned == 50
    assert cache.delete(("pin", 1))
    cache.set(("pin", 2), 2, 0, ttl=1)
    lab.now += LATER_S
    assert cache.expire() == 1
    lab.taken()
    cache.clear()
    assert Counter(cause for *_, cause in lab.exits) == {Cause.CLEARED: len(lab.exits)}


def test_lowering_the_maximum_evicts_at_once(lab: Lab) -> None:
    """And raising it makes room."""
    cache = lab.make(100)
    fill(cache, 100)
    cache.max_cost = 7
    assert cache.cost == len(cache) == 7
    assert len(lab.exits) == 93
    cache.max_cost = 200
    for number in range(1000, 1150):
        cache.set(number, number)
    assert cache.cost == 157
    assert cache.max_cost == cache.stats().max_cost == 200


def test_a_maximum_of_one_holds_the_last_value(lab: Lab) -> None:
    """The smallest cache works."""
    cache = lab.make(1)
    for number in range(20):
        cache.set(number, number)
        assert cache.items() == [(number, number)]


def test_costs_near_the_largest_number_do_not_wrap(lab: Lab) -> None:
    """Sums stay below the maximum however large both are."""
    most = 2**63 - 1
    cache = lab.make(most)
    assert cache.set("a", 1, most) is Outcome.ADDED
    assert cache.set("b", 2, most) is Outcome.ADDED
    assert cache.items() == [("b", 2)]
    assert cache.set("c", 3, most - 1) is Outcome.ADDED
    assert cache.set("d", 4, 1) is Outcome.ADDED
    assert cache.cost == most
    assert cache.set("e", 5, most + 1) is Outcome.REJECTED
    for number in range(40):
        cache.set(number, number, 2**62 + number)
        assert 0 <= cache.cost <= most


def test_a_popular_set_survives_a_scan(lab: Lab) -> None:
    """What is used often stays when a thousand keys come once each."""
    cache = lab.make(100)
    for _ in range(10):
        for number in range(80):
            if cache.get(number) is None:
                cache.set(number, number)
    for number in range(10_000, 11_000):
        cache.set(number, number)
    assert sum(number in cache for number in range(80)) >= 78


def test_a_new_working_set_comes_in(lab: Lab) -> None:
    """Old fame fades: the sketch is halved."""
    cache = lab.make(50)
    for _ in range(30):
        for number in range(50):
            if cache.get(number) is None:
                cache.set(number, number)
    for _ in range(100):
        for number in range(1000, 1050):
            if cache.get(number) is None:
                cache.set(number, number)
    assert sum(number in cache for number in range(1000, 1050)) >= 45


def test_the_same_seed_decides_the_same(lab: Lab) -> None:
    """And so does the same seed modulo 2**64; another one decides otherwise where chance does."""

    def kept(seed: int) -> list[int]:
        cache = lab.make(20, seed=seed)
        for turn in range(3000):
            if cache.get(turn % 25) is None:
                cache.set(turn % 25, turn)
        return sorted(cache)

    assert kept(5) == kept(5) == kept(5 + 2**64) == kept(5 - 2**64)
    assert len({tuple(kept(seed)) for seed in range(10)}) > 1


# ristretto, theine-go, otter, async-lru: time to live


def test_an_expired_value_is_a_miss_at_once(lab: Lab) -> None:
    """To the nanosecond, and it leaves when it is met."""
    cache = lab.make()
    cache.set("a", 1, ttl=0.5)
    lab.now += 0.4999999
    assert cache.get("a") == 1
    lab.now = 1000.5
    assert "a" not in cache
    assert list(cache) == cache.items() == []
    assert len(cache) == 1
    assert lab.exits == []
    assert cache.get("a") is None
    assert lab.taken() == [("a", 1, Cause.EXPIRED)]
    assert len(cache) == 0


MEETINGS: dict[str, tuple[Callable[[Cache[Any, Any]], object], object]] = {
    "get": (lambda cache: cache.get("a"), None),
    "acquire": (lambda cache: cache.acquire("a"), None),
    "touch": (lambda cache: cache.touch("a", 9), False),
    "delete": (lambda cache: cache.delete("a"), False),
    "set": (lambda cache: cache.set("a", 2), Outcome.ADDED),
    "set of the same": (lambda cache: cache.set("a", 1), Outcome.ADDED),
    "stale set": (lambda cache: cache.set("a", 2, generation=0), Outcome.STALE),
    "costly set": (lambda cache: cache.set("a", 2, 11), Outcome.REJECTED),
}


@pytest.mark.parametrize("how", MEETINGS)
def test_who_meets_an_expired_value_lets_it_go(lab: Lab, how: str) -> None:
    """As EXPIRED, whatever the call was for."""
    cache = lab.make()
    cache.clear()
    cache.set("a", 1, ttl=1)
    lab.now += 1
    call, expected = MEETINGS[how]
    assert call(cache) == expected
    assert lab.exits[0] == ("a", 1, Cause.EXPIRED)
    assert cache.stats().exits[Cause.EXPIRED] == 1


def test_use_does_not_extend_and_touch_does(lab: Lab) -> None:
    """The time runs from the set, or from the touch."""
    cache = lab.make(ttl=10)
    cache.set("a", 1)
    cache.set("b", 2)
    cache.set("c", 3, ttl=math.inf)
    lab.now += 9
    assert cache.get("a") == cache.get("a") == 1
    assert cache.touch("b")
    assert cache.touch("c", 5)
    assert not cache.touch("d")
    lab.now += 1
    assert cache.get("a") is None
    assert cache.get("b") == 2
    lab.now += 4
    assert cache.get("c") is None
    assert cache.touch("b", math.inf)
    lab.now += 1e8
    assert cache.get("b") == 2
    assert cache.next_deadline() is None


def test_a_set_overwrites_the_time_to_live(lab: Lab) -> None:
    """By another, by none, and from none."""
    cache = lab.make()
    for key, first, second in (("a", 1, 5), ("b", 1, math.inf), ("c", math.inf, 5), ("d", 5, 1), ("e", 5, None)):
        cache.set(key, 1, ttl=first)
        cache.set(key, 1, ttl=second)
    lab.now += 3
    assert sorted(cache) == ["a", "b", "c", "e"]
    lab.now += 3
    assert sorted(cache) == ["b", "e"]


def test_the_timer_of_a_dropped_entry_does_not_hit_the_next_one(lab: Lab) -> None:
    """A key that was deleted, evicted or cleared and set again has its new time only."""
    cache = lab.make()
    for drop in (lambda: cache.delete("a"), cache.clear, lambda: cache.set("big", 1, 10)):
        cache.set("a", 1, ttl=1)
        drop()
        assert "a" not in cache
        cache.set("a", 2, ttl=50)
        lab.now += 10
        assert cache.expire() == 0
        assert cache.get("a") == 2
        cache.clear()


def test_every_set_sweeps_sixty_four(lab: Lab) -> None:
    """In the order of deadlines' ticks, so that nobody waits for a thousand."""
    cache = lab.make(1000)
    fill(cache, 200, ttl=1)
    lab.now += LATER_S
    cache.set("a", 1)
    assert [key for key, *_ in lab.taken()] == list(range(64))
    assert cache.set("b", 1, 2000) is Outcome.REJECTED
    assert [key for key, _, cause in lab.taken() if cause is Cause.EXPIRED] == list(range(64, 128))
    cache.get("a")
    assert lab.taken() == []
    assert cache.expire(70) == 70
    assert cache.expire() == 2
    assert cache.expire() == 0
    assert len(lab.taken()) == 72
    assert len(cache) == 1


def test_the_sweep_goes_by_ticks_and_by_the_order_of_setting(lab: Lab) -> None:
    """An entry waits until the clock has left the tick of its deadline; within a tick the first set goes first."""
    lab.now = 5 * TICK_S
    cache = lab.make(100)
    cache.set("second tick", 1, ttl=1.5 * TICK_S)
    cache.set("late", 1, ttl=0.8 * TICK_S)
    cache.set("early", 1, ttl=0.2 * TICK_S)
    cache.set("touched", 1, ttl=0.1 * TICK_S)
    cache.set("last", 1, ttl=0.1 * TICK_S)
    assert cache.touch("touched", 0.1 * TICK_S)
    lab.now = 5.95 * TICK_S
    assert cache.expire() == 0
    lab.now = 6 * TICK_S + 1e-6
    assert cache.expire() == 4
    assert [key for key, *_ in lab.taken()] == ["late", "early", "last", "touched"]
    lab.now = 7 * TICK_S + 1e-6
    assert cache.expire() == 1


@pytest.mark.parametrize("ttl", [1.0, 60.0, 68.72, 69.0, 4000.0, 4398.1, 5000.0, 281475.0, 3e5, 2e7, 1e9])
def test_next_deadline_leads_a_loop_to_every_expiry(lab: Lab, ttl: float) -> None:
    """A loop that calls `expire` then, and then only, sweeps in few steps and never late, at any distance."""
    cache = lab.make(1000)
    chance = random.Random(7)
    deadlines = {number: lab.now + ttl * (0.5 + chance.random()) for number in range(50)}
    for number, deadline in deadlines.items():
        cache.set(number, number, ttl=deadline - lab.now)
    calls = 0
    while (when := cache.next_deadline()) is not None:
        lab.now = max(lab.now + 1e-6, when)
        cache.expire()
        calls += 1
        for number, _, cause in lab.taken():
            assert cause is Cause.EXPIRED
            assert 0 <= lab.now - deadlines[number] <= TICK_S + 1e-3
    assert len(cache) == 0
    assert calls <= 50 * 8


def test_the_clock_may_go_back_and_far_forwards(lab: Lab) -> None:
    """A step back is ignored; a leap expires everything that was to expire."""
    cache = lab.make()
    cache.set("a", 1, ttl=10)
    lab.now -= 500
    assert cache.get("a") == 1
    cache.set("b", 2, ttl=10)
    lab.now = 1010.0
    assert cache.get("a") is None
    assert cache.get("b") is None
    cache.set("c", 3, ttl=10)
    cache.set("d", 4)
    lab.now = 5e9
    assert cache.expire() == 1
    assert cache.items() == [("d", 4)]
    cache.set("e", 5, ttl=1)
    lab.now = 8e9
    assert cache.expire() == 1


def test_the_clock_is_not_read_without_need(lab: Lab) -> None:
    """A cache without times to live costs no look at the clock."""
    cache = lab.make()
    cache.set("a", 1)
    cache.get("a")
    cache.get("b")
    cache.touch("a")
    cache.delete("a")
    cache.expire()
    assert list(cache) == []
    assert lab.reads == 0
    cache.set("a", 1, ttl=5)
    assert lab.reads == 1
    cache.get("a")
    assert lab.reads == 2


def test_a_very_long_time_to_live_never_ends(lab: Lab) -> None:
    """Beyond what fits into nanoseconds there is no deadline."""
    cache = lab.make()
    cache.set("a", 1, ttl=1e10)
    cache.set("b", 1, ttl=1e300)
    cache.set("c", 1, ttl=math.inf)
    assert cache.next_deadline() is None
    cache.set("d", 1, ttl=1e-300)
    assert "d" in cache
    lab.now += 1e-6
    assert "d" not in cache


# theine-go, moka, Caffeine: the listener


def test_every_cause_and_its_order(lab: Lab) -> None:
    """In the order of leaving, each value once."""
    cache = lab.make(3)
    cache.clear()
    cache.set("a", 1)
    cache.set("a", 2)
    cache.set("x", 3, ttl=1)
    lab.now += LATER_S
    cache.set("b", 4, generation=0)
    cache.set("c", 5, 4)
    cache.set("d", 6, 3)
    cache.delete("d")
    cache.set("e", 7)
    cache.clear()
    cache.set("f", 8)
    cache.close()
    assert lab.exits == [
        ("a", 1, Cause.REPLACED),
        ("x", 3, Cause.EXPIRED),
        ("b", 4, Cause.STALE),
        ("c", 5, Cause.REJECTED),
        ("a", 2, Cause.EVICTED),
        ("d", 6, Cause.DELETED),
        ("e", 7, Cause.CLEARED),
        ("f", 8, Cause.CLOSED),
    ]
    assert cache.stats().exits == dict.fromkeys(Cause, 1)


def test_the_same_object_again_does_not_leave(lab: Lab) -> None:
    """It keeps its place with the new cost and time to live."""
    cache = lab.make()
    value = object()
    cache.set("a", value, ttl=1)
    assert cache.set("a", value, 5, ttl=100) is Outcome.UPDATED
    lab.now += 50
    assert cache.get("a") is value
    assert cache.cost == 5
    assert lab.exits == []
    cache.close()
    assert lab.exits == [("a", value, Cause.CLOSED)]


def test_the_same_object_refused(lab: Lab) -> None:
    """Too old a generation leaves it there; too high a cost takes it out, once."""
    cache = lab.make()
    cache.clear()
    value = object()
    cache.set("a", value)
    assert cache.set("a", value, generation=0) is Outcome.STALE
    assert cache.get("a") is value
    assert lab.exits == []
    assert cache.set("a", value, 11) is Outcome.REJECTED
    assert lab.exits == [("a", value, Cause.REJECTED)]
    assert len(cache) == 0


def test_a_value_is_let_go_of_when_it_has_left(lab: Lab) -> None:
    """Neither the cache nor the listener's queue keeps it alive."""

    class Value:
        """Something that can be watched."""

    cache = lab.make(2, on_exit=None)
    alive: weakref.WeakSet[Value] = weakref.WeakSet()

    def fill_and_watch() -> None:
        for number in range(20):
            value = Value()
            alive.add(value)
            cache.set(number, value)

    fill_and_watch()
    gc.collect()
    assert len(alive) == 2
    cache.clear()
    gc.collect()
    assert len(alive) == 0


# coder's pool: generations and leases


def test_a_stale_build_does_not_come_in(lab: Lab) -> None:
    """What was made before a clear is refused after it, and leaves; what is there stays."""
    cache = lab.make()
    before = cache.generation
    assert before == 0
    cache.set("a", 1, generation=before)
    assert cache.clear() == cache.generation == 1
    assert cache.set("a", 2, generation=1) is Outcome.ADDED
    lab.taken()
    assert cache.set("a", 3, generation=before) is Outcome.STALE
    assert cache.set("b", 4, 99, generation=before) is Outcome.STALE
    assert cache.get("a") == 2
    assert lab.exits == [("a", 3, Cause.STALE), ("b", 4, Cause.STALE)]


def test_a_shared_lease_keeps_a_value_that_has_left_the_cache(lab: Lab) -> None:
    """It is a lease of its own: whoever made it may go first."""
    cache = lab.make()
    lease = cache.set_and_acquire("a", 1)
    cache.delete("a")
    other = lease.share()
    lease.release()
    assert (other.value, other.is_live, other.outcome, lab.exits) == (1, False, None, [])
    assert (cache.stats().leases, cache.stats().retired) == (1, 1)
    other.release()
    assert lab.exits == [("a", 1, Cause.DELETED)]
    for released in (lease, other):
        with pytest.raises(RuntimeError, match="the lease was released"):
            released.share()
    assert cache.stats().leases == 0


def test_a_leased_value_leaves_after_its_last_lease(lab: Lab) -> None:
    """Whatever happens to its entry; its cost is free at once."""
    cache = lab.make()
    cache.set("a", 1, 10)
    one, two = cache.acquire("a"), cache.acquire("a")
    assert one is not None
    assert two is not None
    assert one.is_live
    assert one.outcome is None
    cache.set("b", 2, 10)
    assert "a" not in cache
    assert cache.cost == 10
    assert not one.is_live
    stats = cache.stats()
    assert (stats.leases, stats.retired, stats.exits[Cause.EVICTED]) == (2, 1, 0)
    one.release()
    one.release()
    assert two.value == 1
    assert lab.exits == []
    two.release()
    assert lab.exits == [("a", 1, Cause.EVICTED)]
    stats = cache.stats()
    assert (stats.leases, stats.retired, stats.exits[Cause.EVICTED]) == (0, 0, 1)
    with pytest.raises(RuntimeError):
        _ = two.value


RETIRINGS: dict[str, tuple[Callable[[Cache[Any, Any]], object], Cause]] = {
    "replaced": (lambda cache: cache.set("a", 2), Cause.REPLACED),
    "deleted": (lambda cache: cache.delete("a"), Cause.DELETED),
    "cleared": (lambda cache: cache.clear(), Cause.CLEARED),
    "evicted": (lambda cache: cache.set("b", 2, 10), Cause.EVICTED),
    "rejected": (lambda cache: cache.set("a", 1, 11), Cause.REJECTED),
    "closed": (lambda cache: cache.close(), Cause.CLOSED),
}


@pytest.mark.parametrize("how", RETIRINGS)
def test_a_retired_value_leaves_with_the_cause_that_retired_it(lab: Lab, how: str) -> None:
    """And with that one only, even if the cache is closed before the lease is back."""
    cache = lab.make()
    cache.set("a", 1)
    lease = cache.acquire("a")
    assert lease is not None
    retire, cause = RETIRINGS[how]
    retire(cache)
    assert ("a", 1, cause) not in lab.exits
    assert not lease.is_live
    cache.close()
    with lease as value:
        assert value == 1
    assert [left for left in lab.exits if left[1] == 1] == [("a", 1, cause)]


@pytest.mark.parametrize(
    ("options", "outcome", "cause"),
    [
        ({"cost": 11}, Outcome.REJECTED, Cause.REJECTED),
        ({"generation": 0}, Outcome.STALE, Cause.STALE),
    ],
)
def test_a_refused_value_can_be_used_by_who_made_it(
    lab: Lab, options: dict[str, int], outcome: Outcome, cause: Cause
) -> None:
    """The lease holds it, and it leaves when the lease is back."""
    cache = lab.make()
    cache.clear()
    lease = cache.set_and_acquire("a", 1, **options)
    assert (lease.value, lease.outcome, lease.is_live) == (1, outcome, False)
    assert cache.stats().retired == 1
    assert lab.exits == []
    lease.release()
    assert lab.exits == [("a", 1, cause)]


def test_set_and_acquire_is_one_step(lab: Lab) -> None:
    """The lease says how it went, and the value is in use from the start."""
    cache = lab.make(1)
    with cache.set_and_acquire("a", 1) as value:
        assert value == 1
        cache.set("b", 2)
        assert lab.exits == []
    assert lab.exits == [("a", 1, Cause.EVICTED)]
    lease = cache.set_and_acquire("b", 3)
    assert lease.outcome is Outcome.UPDATED
    assert lease.is_live
    lease.release()
    assert lease.is_released


def test_a_lost_lease_is_reported_and_given_back(lab: Lab) -> None:
    """A lease that was collected counts, warns, and holds nothing any more."""
    cache = lab.make()
    cache.set("a", 1)
    lease = cache.acquire("a")
    cache.delete("a")
    leases = [lease]
    del lease
    with pytest.warns(ResourceWarning):
        leases.clear()
    assert lab.exits == [("a", 1, Cause.DELETED)]
    assert cache.stats().lost_leases == 1
    assert cache.stats().leases == 0


def test_the_pools_counters(lab: Lab) -> None:
    """The sequence that the pool's own tests go through, with room for one."""
    cache = lab.make(1)

    def pooled(key: str) -> None:
        lease = cache.acquire(key) or cache.set_and_acquire(key, key + "'s bridge")
        lease.release()

    def counters() -> tuple[int, int, int, int]:
        stats = cache.stats()
        return stats.added, stats.exits[Cause.EVICTED], stats.hits, stats.misses

    pooled("a")
    pooled("a")
    assert counters() == (1, 0, 1, 1)
    pooled("b")
    assert counters() == (2, 1, 1, 2)
    pooled("a")
    pooled("a")
    assert counters() == (3, 2, 2, 3)


# ristretto, moka: closing

CALLS: dict[str, Callable[[Cache[Any, Any]], object]] = {
    "get": lambda cache: cache.get("a"),
    "get2": lambda cache: cache.get2("a", "b"),
    "set": lambda cache: cache.set("a", 1),
    "set2": lambda cache: cache.set2("a", "b", 1),
    "acquire": lambda cache: cache.acquire("a"),
    "acquire2": lambda cache: cache.acquire2("a", "b"),
    "set_and_acquire": lambda cache: cache.set_and_acquire("a", 1),
    "set_and_acquire2": lambda cache: cache.set_and_acquire2("a", "b", 1),
    "touch": lambda cache: cache.touch("a"),
    "delete": lambda cache: cache.delete("a"),
    "delete2": lambda cache: cache.delete2("a", "b"),
    "clear": lambda cache: cache.clear(),
    "expire": lambda cache: cache.expire(),
    "items": lambda cache: cache.items(),
    "in": lambda cache: "a" in cache,
    "iter": list,
    "max_cost": lambda cache: setattr(cache, "max_cost", 5),
}


@pytest.mark.parametrize("how", CALLS)
def test_a_closed_cache_refuses_use(lab: Lab, how: str) -> None:
    """Every call that would use it raises Closed; nothing hangs, nothing is lost."""
    cache = lab.make()
    cache.set("a", 1)
    cache.close()
    with pytest.raises(Closed):
        CALLS[how](cache)
    assert lab.exits == [("a", 1, Cause.CLOSED)]


def test_a_closed_cache_answers_what_costs_nothing(lab: Lab) -> None:
    """Closing again, its size, its numbers and its counters."""
    cache = lab.make()
    cache.set("a", 1, ttl=5)
    lease = cache.acquire("a")
    cache.clear()
    cache.close()
    cache.close()
    assert cache.is_closed
    assert len(cache) == cache.cost == 0
    assert cache.max_cost == 10
    assert cache.generation == 1
    assert cache.next_deadline() is None
    assert cache.stats().hits == 1
    cache.reset_stats()
    assert cache.stats().hits == 0
    assert lease is not None
    lease.release()
    assert lab.exits == [("a", 1, Cause.CLEARED)]


# Arguments

WRONG: dict[str, tuple[Callable[[Lab], object], type[Exception], str]] = {
    "max_cost 0": (lambda lab: lab.make(0), ValueError, r"max_cost.*\b0$"),
    "max_cost -1": (lambda lab: lab.make(-1), ValueError, r"max_cost.*-1$"),
    "max_cost 2**63": (lambda lab: lab.make(2**63), ValueError, rf"max_cost.*{2**63}$"),
    "max_cost 1.5": (lambda lab: lab.make(cast("int", 1.5)), TypeError, r"max_cost.*float"),
    "max_cost later": (lambda lab: setattr(lab.make(), "max_cost", 0), ValueError, r"max_cost.*\b0$"),
    "cost -1": (lambda lab: lab.make().set(1, 1, -1), ValueError, r"^cost.*-1$"),
    "cost -2**70": (lambda lab: lab.make().set(1, 1, -(2**70)), ValueError, rf"^cost.*-{2**70}$"),
    "cost 1.0": (lambda lab: lab.make().set(1, 1, cast("int", 1.0)), TypeError, r"^cost.*float"),
    "cost None": (lambda lab: lab.make().set(1, 1, cast("int", None)), TypeError, r"^cost.*NoneType"),
    "ttl 0": (lambda lab: lab.make().set(1, 1, ttl=0), ValueError, r"^ttl.*\b0$"),
    "ttl -1.5": (lambda lab: lab.make().set(1, 1, ttl=-1.5), ValueError, r"^ttl.*-1\.5$"),
    "ttl nan": (lambda lab: lab.make().set(1, 1, ttl=math.nan), ValueError, r"^ttl.*nan$"),
    "ttl -inf": (lambda lab: lab.make().set(1, 1, ttl=-math.inf), ValueError, r"^ttl.*-inf$"),
    "ttl text": (lambda lab: lab.make().set(1, 1, ttl=cast("float", "5")), TypeError, r"^ttl.*str"),
    "ttl of touch": (lambda lab: lab.make().touch(1, 0), ValueError, r"^ttl.*\b0$"),
    "ttl of the cache": (lambda lab: lab.make(ttl=0), ValueError, r"^ttl.*\b0$"),
    "generation ahead": (lambda lab: lab.make().set(1, 1, generation=1), ValueError, r"generation 1 has not begun.*0$"),
    "generation -1": (lambda lab: lab.make().set(1, 1, generation=-1), ValueError, r"^generation.*-1$"),
    "generation text": (lambda lab: lab.make().set(1, 1, generation=cast("int", "0")), TypeError, r"^generation.*str"),
    "limit -1": (lambda lab: lab.make().expire(-1), ValueError, r"^limit.*-1$"),
    "limit text": (lambda lab: lab.make().expire(cast("int", "1")), TypeError, r"^limit.*str"),
    "on_exit": (lambda lab: lab.make(on_exit=5), TypeError, r"^on_exit.*int$"),
    "clock": (lambda lab: lab.make(clock=5), TypeError, r"^clock.*int$"),
    "seed": (lambda lab: lab.make(seed="x"), TypeError, r"^seed.*str$"),
    "list as key": (lambda lab: lab.make().set([], 1), TypeError, "unhashable.*list"),
    "list in get": (lambda lab: lab.make().get([]), TypeError, "unhashable.*list"),
    "list as part": (lambda lab: lab.make().get2("a", []), TypeError, "unhashable.*list"),
    "list in delete": (lambda lab: lab.make().delete([]), TypeError, "unhashable.*list"),
    "list in in": (lambda lab: [] in lab.make(), TypeError, "unhashable.*list"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_argument_is_named_with_what_was_found(lab: Lab, how: str) -> None:
    """The message says which argument it was and what it was."""
    call, kind, message = WRONG[how]
    with pytest.raises(kind, match=message):
        call(lab)


@pytest.mark.parametrize("options", [{}, {"max_cost": 0}, {"max_cost": 5, "other": 1}, {"max_cost": 5, "clock": 1}])
def test_a_cache_that_was_not_made_can_be_collected(lab: Lab, options: dict[str, int]) -> None:
    """Whatever the constructor did not like, nothing half made is closed afterwards."""
    for _ in range(100):
        with pytest.raises((TypeError, ValueError)):
            lab.kind(**options)
    gc.collect()


def test_a_wrong_argument_changes_nothing(lab: Lab) -> None:
    """Neither the entry nor the time nor what is swept."""
    cache = lab.make()
    cache.set("a", 1, 2, ttl=5)
    before = cache.stats()
    for options in ({"cost": -1}, {"ttl": 0}, {"generation": 7}):
        with pytest.raises(ValueError):  # noqa: PT011
            cache.set("a", 2, **options)
    with pytest.raises(TypeError):
        cache.set(cast("str", []), 2)
    assert cache.stats() == before
    assert cache.get("a") == 1
    assert lab.exits == []
