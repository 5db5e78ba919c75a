"""The compiled cache and its reference, side by side: the same calls, and after each the same of everything."""

import itertools
import random
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridgecore import Cache, Cause, Lease, Outcome
from oracle import ReferenceCache, ReferenceLease, key_bytes, siphash13

TICK = 2**30 / 1e9


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Value:
    """A value that is equal to itself only."""

    numbers = itertools.count()

    def __init__(self) -> None:
        self.number = next(self.numbers)

    def __repr__(self) -> str:
        return f"<value {self.number}>"


class Exit(NamedTuple):
    """What a listener was told."""

    key: Any
    value: Any
    cause: Cause


def appender(exits: list[Exit]) -> Callable[[Any, Any, Cause], None]:
    """Return a listener that writes down what left."""
    return lambda key, value, cause: exits.append(Exit(key, value, cause))


class Pair:
    """Both caches, driven by the same calls."""

    def __init__(self, max_cost: int, ttl: float | None, seed: int) -> None:
        self.clock = Clock()
        self.exits: tuple[list[Exit], list[Exit]] = ([], [])
        self.real: Cache[Any, Any] = Cache(
            max_cost, ttl=ttl, on_exit=appender(self.exits[0]), clock=self.clock, seed=seed
        )
        self.model = ReferenceCache(max_cost, ttl=ttl, on_exit=appender(self.exits[1]), clock=self.clock, seed=seed)
        self.leases: list[tuple[Lease[Any], ReferenceLease]] = []

    def both(self, name: str, *args: Any) -> Any:
        """Call a method of both and return what both returned."""
        real = getattr(self.real, name)(*args)
        model = getattr(self.model, name)(*args)
        assert real is model or real == model, (name, args, real, model)
        return real

    def lease(self, name: str, *args: Any) -> None:
        """Call a method that returns a lease."""
        real = getattr(self.real, name)(*args)
        model = getattr(self.model, name)(*args)
        assert (real is None) == (model is None), (name, args, real, model)
        if real is not None:
            assert real.value is model.value
            assert real.outcome is model.outcome
            self.leases.append((real, model))

    def release(self, index: int) -> None:
        real, model = self.leases.pop(index % len(self.leases))
        assert real.is_live == model.is_live
        real.release()
        model.release()

    def set_max_cost(self, max_cost: int) -> None:
        self.real.max_cost = max_cost
        self.model.max_cost = max_cost

    def compare_exits(self) -> None:
        """Compare what left since the last time: which, why and in which order."""
        real, model = self.exits
        assert len(real) == len(model)
        for theirs, ours in zip(real, model, strict=True):
            assert (theirs.key, theirs.cause) == (ours.key, ours.cause)
            assert theirs.value is ours.value
        real.clear()
        model.clear()

    def compare(self) -> None:
        """Compare everything."""
        self.compare_exits()
        assert self.real.stats() == self.model.stats()
        assert self.real._snapshot() == self.model.snapshot()  # type: ignore[attr-defined]
        assert self.real.cost <= self.real.max_cost
        assert self.real.generation == self.model.generation
        deadline, first_sweep = self.real.next_deadline(), self.model.first_sweep()
        assert (deadline is None) == (first_sweep is None)
        if deadline is not None and first_sweep is not None:
            assert deadline <= first_sweep / 1e9
        self.real.audit()

    def finish(self) -> None:
        """Close both and return every lease: then everything has left both."""
        self.both("close")
        while self.leases:
            self.release(0)
        self.compare_exits()
        stats = self.real.stats()
        assert (stats.entries, stats.leases, stats.retired) == (0, 0, 0)
        self.real.audit()


KEYS = st.one_of(
    st.integers(0, 6),
    st.sampled_from(
        [1.0, True, "a", "b", "ä", "€", "😀", b"a", b"b", ("a", "b"), ("a|b", ""), (1, "x"), ("a", "b", "c")]
    ),
)
PARTS = st.sampled_from(["a", "b", "a|b", "", b"a", 1, None])
COSTS = st.one_of(st.integers(0, 4), st.sampled_from([9, 10, 11, 100, 101, 2**63 - 1, 2**63, 2**70]))
TTLS = st.sampled_from([None, None, 0.1, 1, TICK, 5, 69, 70, 4500, 1e6, 1e9, 1e12, float("inf")])
AGES = st.sampled_from([None, None, None, 0, 1])
STEPS = [0.05, 1, TICK, 5, 64 * TICK, 70, 5000, 4096 * TICK, 1e6, 64**4 * TICK, 1e9, -3, -1e9]


class Machine(RuleBasedStateMachine):
    """Any calls in any order."""

    @initialize(
        max_cost=st.sampled_from([1, 2, 10, 100, 2**63 - 1]), ttl=st.sampled_from([None, 5.0]), seed=st.integers()
    )
    def begin(self, max_cost: int, ttl: float | None, seed: int) -> None:
        self.pair = Pair(max_cost, ttl, seed)
        self.values: list[Value] = []

    def value(self, *, again: bool = False) -> Value:
        if not again or not self.values:
            self.values.append(Value())
        return self.values[-1]

    def generation(self, age: int | None) -> int | None:
        return None if age is None else max(0, self.pair.real.generation - age)

    @rule(key=KEYS)
    def get(self, key: Hashable) -> None:
        self.pair.both("get", key)

    @rule(a=PARTS, b=PARTS)
    def get2(self, a: Hashable, b: Hashable) -> None:
        self.pair.both("get2", a, b, "missing")

    @rule(key=KEYS, cost=COSTS, ttl=TTLS, age=AGES, again=st.booleans())
    def set(self, key: Hashable, cost: int, ttl: float | None, age: int | None, again: bool) -> None:
        self.pair.both("set", key, self.value(again=again), cost, ttl, self.generation(age))

    @rule(keys=st.lists(KEYS, min_size=5, max_size=20))
    def set_many(self, keys: list[Hashable]) -> None:
        for key in keys:
            self.pair.both("set", key, self.value())

    @rule(a=PARTS, b=PARTS, cost=COSTS)
    def set2(self, a: Hashable, b: Hashable, cost: int) -> None:
        self.pair.both("set2", a, b, self.value(), cost)

    @rule(key=KEYS, cost=COSTS, age=AGES, again=st.booleans())
    def set_and_acquire(self, key: Hashable, cost: int, age: int | None, again: bool) -> None:
        self.pair.lease("set_and_acquire", key, self.value(again=again), cost, None, self.generation(age))

    @rule(key=KEYS)
    def acquire(self, key: Hashable) -> None:
        self.pair.lease("acquire", key)

    @rule(a=PARTS, b=PARTS)
    def acquire2(self, a: Hashable, b: Hashable) -> None:
        self.pair.lease("acquire2", a, b)

    @precondition(lambda self: self.pair.leases)
    @rule(index=st.integers(0, 100))
    def release(self, index: int) -> None:
        self.pair.release(index)

    @rule(key=KEYS, ttl=TTLS)
    def touch(self, key: Hashable, ttl: float | None) -> None:
        self.pair.both("touch", key, ttl)

    @rule(key=KEYS)
    def delete(self, key: Hashable) -> None:
        self.pair.both("delete", key)

    @rule(a=PARTS, b=PARTS)
    def delete2(self, a: Hashable, b: Hashable) -> None:
        self.pair.both("delete2", a, b)

    @rule()
    def clear(self) -> None:
        self.pair.both("clear")

    @rule(limit=st.sampled_from([0, 1, 2, 1000]))
    def expire(self, limit: int) -> None:
        self.pair.both("expire", limit)

    @rule(step=st.sampled_from(STEPS))
    def pass_time(self, step: float) -> None:
        self.pair.clock.now += step

    @rule(max_cost=st.sampled_from([1, 2, 5, 10, 100, 1000, 2**63 - 1]))
    def resize(self, max_cost: int) -> None:
        self.pair.set_max_cost(max_cost)

    @rule()
    def reset_stats(self) -> None:
        self.pair.both("reset_stats")

    @rule(key=KEYS)
    def look(self, key: Hashable) -> None:
        assert (key in self.pair.real) == (key in self.pair.model)
        assert len(self.pair.real) == len(self.pair.model)
        assert {id(value) for _key, value in self.pair.real.items()} == {id(v) for _key, v in self.pair.model.items()}

    @invariant()
    def same(self) -> None:
        if hasattr(self, "pair"):
            self.pair.compare()

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.finish()


Machine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestMachine = Machine.TestCase
TestMachine.__doc__ = "Whatever is called, the compiled cache and the reference are and do the same."


def zipf(choose: random.Random, keys: int) -> Callable[[], int]:
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(keys)))
    ranks = range(keys)
    return lambda: choose.choices(ranks, cum_weights=weights)[0]


def stream(choose: random.Random, max_cost: int) -> Callable[[], Hashable]:
    """Return a source of keys that changes between popular keys, scans, loops and bursts, all larger than the cache."""
    popular = zipf(choose, 8 * max_cost + 8)
    counter = itertools.count()
    phases: list[Callable[[], Hashable]] = [
        popular,
        lambda: f"user-{popular()}",
        lambda: next(counter),
        lambda: next(counter) % (max_cost * 5 // 4 + 2),
        lambda: ("pair", str(popular() // 2)),
        lambda: next(counter) // 3 * 7919 % (6 * max_cost + 3),
    ]
    left, phase = 0, phases[0]

    def key() -> Hashable:
        nonlocal left, phase
        if left == 0:
            left, phase = choose.randrange(50, 12 * max_cost + 100), choose.choice(phases)
        left -= 1
        return phase()

    return key


def do_something_else(pair: Pair, choose: random.Random, key: Hashable, costs: list[int], max_cost: int) -> None:
    """Make one of the rarer calls."""
    what = choose.random()
    if what < 0.3:
        pair.both("set", key, Value(), choose.choice(costs))
    elif what < 0.45:
        pair.lease("acquire", key)
    elif what < 0.6 and pair.leases:
        pair.release(choose.randrange(len(pair.leases)))
    elif what < 0.75:
        pair.both("delete", key)
    elif what < 0.99:
        pair.clock.now += choose.choice([0.01, 0.5, 2.0, 40.0])
        pair.both("expire", choose.choice([1, 10, 1000]))
    elif what < 0.998:
        pair.set_max_cost(max(1, choose.choice([max_cost, max_cost, max_cost * 2, max_cost // 2])))
    else:
        pair.both("clear")


def drive(steps: int, max_cost: int, seed: int, *, sized: bool, compare_every: int) -> Pair:
    """Make *steps* calls of a plausible mix, most of them get or set."""
    choose = random.Random(seed)
    pair = Pair(max_cost, choose.choice([None, 300.0]), seed)
    key = stream(choose, max_cost)
    costs = [0, 1, 1, 1, 2, 3, max(1, max_cost // 7), max_cost, max_cost + 1] if sized else [1]
    for step in range(steps):
        if choose.random() < 0.97:
            one = key()
            if pair.both("get", one) is None:
                cost = 1 if choose.random() < 0.8 else choose.choice(costs)
                ttl = None if choose.random() < 0.9 else choose.choice([1.0, 90.0, 5000.0, 1e7])
                pair.both("set", one, Value(), cost, ttl)
        else:
            do_something_else(pair, choose, key(), costs, max_cost)
        if step % compare_every == 0:
            pair.compare()
    pair.compare()
    return pair


@pytest.mark.parametrize(("max_cost", "sized"), [(1, False), (7, True), (60, False), (300, False), (700, True)])
def test_ten_thousand_calls_agree(max_cost: int, sized: bool) -> None:
    """A mix of popular keys, scans and loops has the same history in both."""
    drive(2_000, max_cost, seed=max_cost, sized=sized, compare_every=100).finish()


@pytest.mark.soak
def test_a_million_calls_agree() -> None:
    """A million calls in caches of all sizes have the same history in both, and meet every mechanism on their way."""
    warm = halvings = changes = grown = steps = 0
    for max_cost, sized, share in [
        (3, True, 50_000),
        (40, False, 150_000),
        (300, False, 200_000),
        (1000, False, 300_000),
        (1000, True, 150_000),
        (4000, False, 150_000),
    ]:
        pair = drive(share, max_cost, seed=max_cost + sized, sized=sized, compare_every=2_000)
        steps += share
        warm += pair.model.policy.warm_losers
        halvings += pair.model.sketch.halvings
        changes += pair.model.chooser.changes
        grown = max(grown, len(pair.model.sketch.counters))
        pair.finish()
    assert steps == 1_000_000
    assert warm > 10
    assert halvings > 10
    assert changes > 10
    assert grown > 64


def test_the_reference_hashes_like_the_core() -> None:
    """Both read keys of every kind in one way; a difference would show as other decisions only."""
    pair = Pair(100, None, 1)
    for key in ["", "a" * 7, "a" * 8, "é", "中文", "😀", b"", b"bytes", 5, -1, None, ("a", "b"), ("é", b"b"), (1, 2)]:
        assert siphash13(pair.model.k0, pair.model.k1, key_bytes(key)) == pair.model.hash_key(key)
        assert pair.both("set", key, Value()) is Outcome.ADDED
        for _ in range(3):
            pair.both("get", key)
    pair.compare()
    pair.finish()
