"""What a cache has to bear: keys, values, listeners and clocks that fight back, threads, forks and the collector."""

import gc
import os
import random
import subprocess
import sys
import textwrap
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgecore import Cache, Cause, Closed, Lease, Outcome

ROOT = Path(__file__).parent.parent


class Value:
    """A value with an identity."""


class Key:
    """A key that runs *act* when it is compared; all of them have one hash."""

    def __init__(self, act: Callable[[], object] = lambda: None, name: str = "") -> None:
        self.act = act
        self.name = name

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key):
            return False
        self.act()
        other.act()
        return other.name == self.name


def fail() -> None:
    raise ZeroDivisionError("hostile")


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was reported through `sys.unraisablehook`."""
    reported: list[Any] = []

    def hook(args: "sys.UnraisableHookArgs") -> None:
        reported.append(args.exc_value)

    monkeypatch.setattr(sys, "unraisablehook", hook)
    return reported


def calls_of(cache: Cache[Any, int]) -> list[Callable[[Any], object]]:
    """Return the calls that look a key up."""
    return [cache.get, cache.acquire, cache.delete, cache.__contains__, cache.touch, lambda key: cache.set(key, 2)]


def test_a_comparison_that_raises_changes_nothing() -> None:
    """The error comes out of every call that compares, and the entry is still there afterwards."""
    cache: Cache[Any, int] = Cache(10)
    cache.set(Key(), 1)
    bad = Key(fail)
    for call in calls_of(cache):
        with pytest.raises(ZeroDivisionError):
            call(bad)
        cache.audit()
    assert cache.get(Key()) == 1
    assert cache.stats().misses == 0


def test_a_hash_that_raises_changes_nothing() -> None:
    """An unhashable key is a TypeError in every call."""
    cache: Cache[Any, int] = Cache(10)
    for call in calls_of(cache):
        with pytest.raises(TypeError, match="unhashable"):
            call([])
        with pytest.raises(TypeError, match="unhashable"):
            call(("a", []))
    cache.audit()
    assert len(cache) == 0


def test_a_comparison_that_always_changes_the_cache_is_given_up() -> None:
    """After sixteen attempts the look-up fails with an error that names the type."""
    cache: Cache[Any, int] = Cache(100)
    numbers = iter(range(1000))
    cache.set(Key(), 1)
    bad = Key(lambda: cache.set(next(numbers), 0))
    with pytest.raises(RuntimeError, match=r"Key.__eq__ changed the cache 16 times in a row"):
        cache.get(bad)
    cache.audit()
    assert next(numbers) == 16


@pytest.mark.parametrize("act", ["get", "set", "delete", "clear", "close", "grow"])
@pytest.mark.parametrize("call", ["get", "set", "delete", "acquire", "touch"])
def test_a_comparison_may_use_the_cache(act: str, call: str) -> None:
    """What a comparison does to the cache once is seen by the call that made it, and nothing breaks."""
    exits: list[Any] = []
    cache: Cache[Any, Any] = Cache(1000, on_exit=lambda _key, value, _cause: exits.append(value))
    cache.set(Key(name="a"), "a")
    cache.set(Key(name="b"), "b")
    done: list[bool] = []

    def once() -> None:
        if done:
            return
        done.append(True)
        if act == "get":
            cache.get("other")
        elif act == "set":
            cache.set("other", 1)
        elif act == "delete":
            cache.delete(Key(name="a"))
        elif act == "grow":
            for number in range(300):
                cache.set(number, number)
        else:
            getattr(cache, act)()

    key = Key(once, "b")
    arguments = [key, "new"] if call == "set" else [key]
    if act == "close":
        with pytest.raises(Closed):
            getattr(cache, call)(*arguments)
    else:
        found = getattr(cache, call)(*arguments)
        if isinstance(found, Lease):
            found.release()
    cache.audit()
    cache.close()
    assert max(Counter(exits).values(), default=0) <= 1


def test_many_keys_of_one_hash_are_told_apart() -> None:
    """A clash of hashes costs time and never a wrong value."""
    cache: Cache[Any, int] = Cache(100)
    for number in range(100):
        cache.set(Key(name=str(number)), number)
    assert [cache.get(Key(name=str(number))) for number in range(100)] == list(range(100))
    cache.audit()


def test_a_destructor_may_use_the_cache() -> None:
    """A value whose last reference the cache gives up finds it whole, whatever it calls."""

    class Restless:
        def __init__(self, cache: Cache[Any, Any], act: Callable[[Cache[Any, Any]], object]) -> None:
            self.cache, self.act = cache, act

        def __del__(self) -> None:
            self.cache.audit()
            if not self.cache.is_closed:
                self.act(self.cache)
            self.cache.audit()

    acts: list[Callable[[Cache[Any, Any]], object]] = [
        lambda cache: cache.set("from a destructor", 1),
        lambda cache: cache.get("k"),
        lambda cache: cache.delete("k"),
        lambda cache: cache.clear(),
    ]
    for act in acts:
        cache: Cache[Any, Any] = Cache(3)
        for number in range(20):
            cache.set(number % 5, Restless(cache, act))
            cache.audit()
        cache.close()
        cache.audit()
    closing: Cache[Any, Any] = Cache(3)
    closing.set(1, Restless(closing, lambda cache: cache.close()))
    closing.delete(1)
    assert closing.is_closed


def test_a_listener_that_raises_is_reported_and_counted(unraisable: list[Any]) -> None:
    """Its error goes to `sys.unraisablehook`, and the exits after it are delivered."""
    seen: list[int] = []

    def listener(_key: int, value: int, _cause: Cause) -> None:
        seen.append(value)
        raise ZeroDivisionError(str(value))

    cache: Cache[int, int] = Cache(10, on_exit=listener)
    for number in range(3):
        cache.set(number, number)
    cache.clear()
    assert sorted(seen) == [0, 1, 2]
    assert [str(error) for error in unraisable] == [str(value) for value in seen]
    assert cache.stats().listener_errors == 3
    cache.audit()


def test_an_interrupt_in_a_listener_comes_out_after_all_were_told() -> None:
    """Ctrl-C is not lost, and neither is an exit."""
    seen: list[int] = []

    def listener(_key: int, value: int, _cause: Cause) -> None:
        seen.append(value)
        if len(seen) == 1:
            raise KeyboardInterrupt

    cache: Cache[int, int] = Cache(10, on_exit=listener)
    for number in range(3):
        cache.set(number, number)
    with pytest.raises(KeyboardInterrupt):
        cache.clear()
    assert len(seen) == 3
    cache.audit()


def test_the_truth_of_an_interrupt_is_not_asked() -> None:
    """An interrupt that fails when it is asked for its truth comes out all the same."""

    class Odd(KeyboardInterrupt):
        def __bool__(self) -> bool:
            raise ZeroDivisionError

    def listener(_key: int, _value: int, _cause: Cause) -> None:
        raise Odd

    cache: Cache[int, int] = Cache(10, on_exit=listener)
    cache.set(1, 1)
    cache.set(2, 2)
    with pytest.raises(Odd):
        cache.clear()
    assert cache.stats().listener_errors == 2


def test_a_listener_that_sets_does_not_recurse() -> None:
    """Five thousand exits, each of which sets a key, are delivered one after another."""
    depth = deepest = 0

    def listener(key: int, _value: int, cause: Cause) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        if cause is Cause.CLEARED:
            cache.set(key + 10_000, key)
        depth -= 1

    cache: Cache[int, int] = Cache(5_000, on_exit=listener)
    for number in range(5_000):
        cache.set(number, number)
    cache.clear()
    assert deepest == 1
    assert len(cache) == 5_000
    cache.audit()


@pytest.mark.parametrize("reading", [float("nan"), float("inf"), "noon"])
def test_a_clock_that_shows_no_time_changes_nothing(reading: object) -> None:
    """Its error names what is wrong, and the cache is as it was."""
    now: Any = 1.0
    cache: Cache[str, int] = Cache(10, ttl=5, clock=lambda: now)
    cache.set("a", 1)
    now = reading
    for call in (lambda: cache.get("a"), lambda: cache.set("b", 1), lambda: cache.touch("a"), cache.expire):
        with pytest.raises((ValueError, TypeError)):
            call()
        cache.audit()
    now = 2.0
    assert cache.get("a") == 1
    assert cache.get("b") is None


@pytest.mark.parametrize("act", ["clear", "close"])
def test_a_clock_may_use_the_cache(act: str) -> None:
    """A clock that empties or closes the cache while it is read upsets nothing."""
    armed: list[bool] = []

    def clock() -> float:
        if armed:
            armed.clear()
            getattr(cache, act)()
        return 1.0

    cache: Cache[str, int] = Cache(10, ttl=5, clock=clock)
    for call in (lambda: cache.get("a"), lambda: cache.set("a", 2), lambda: cache.delete("a"), cache.items):
        if cache.is_closed:
            break
        cache.set("a", 1)
        armed.append(True)
        try:
            call()
        except Closed:
            assert act == "close"
        cache.audit()


def test_a_collection_at_any_allocation_is_survived() -> None:
    """The collector of cycles runs as often as it can, and what it frees uses the cache."""
    cache: Cache[Any, Any] = Cache(20)

    class Cyclic:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            cache.set(random.randrange(30), 1)
            cache.get(5)

    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for number in range(300):
            Cyclic()
            cache.set(number % 40, [number])
            lease = cache.acquire(number % 7)
            cache.items()
            cache.stats()
            if lease is not None:
                lease.release()
    finally:
        gc.set_threshold(*before)
    gc.collect()
    cache.audit()


@pytest.mark.parametrize("collection", range(1, 12))
def test_a_collection_while_the_cache_grows_may_grow_it_more(collection: int) -> None:
    """Whichever allocation of a growing cache runs foreign code, its arrays never end smaller than what is in them."""
    cache: Cache[object, int] = Cache(100_000)
    for number in range(60):
        cache.set(number, number)
    seen = 0

    def collected(phase: str, _info: object) -> None:
        nonlocal seen
        seen += phase == "start"
        if seen == collection and phase == "start":
            for number in range(500):
                cache.set(("more", number), number)

    before = gc.get_threshold()
    gc.callbacks.append(collected)
    gc.set_threshold(1, 1, 1)
    try:
        for number in range(60, 80):
            cache.set(number, number)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(collected)
    cache.audit()
    assert [cache.get(number) for number in range(80)] == list(range(80))


def test_a_cache_that_is_being_collected_can_be_called() -> None:
    """Code that runs while the collector takes a cycle apart finds a closed cache, and no memory that is gone."""
    program = """
        import gc, weakref
        from bridgecore import Cache, Closed
        class Node:
            pass
        class Finalizer:
            def __init__(self, holder, target):
                self.holder, self.target = holder, target
            def __del__(self):
                watched[:] = [weakref.ref(self.holder), weakref.ref(self.target, late)]
        def late(_gone):
            holder = watched[0]()
            cache = getattr(holder, "cache", None)
            if cache is not None:
                for call in (cache.get, cache.acquire, cache.delete):
                    try:
                        call("a")
                    except Closed:
                        pass
        def make():
            cache, holder, target = Cache(10), Node(), Node()
            holder.cache, holder.me = cache, holder
            for key, value in (("a", 1), ("b", Finalizer(holder, target)), ("c", holder), ("d", target)):
                cache.set(key, value)
                cache.get(key)
        watched = []
        gc.disable()
        make()
        gc.collect()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=60)
    assert done.returncode == 0


def test_a_cycle_through_the_cache_is_collected() -> None:
    """A value that refers to its cache does not keep it alive, and both leave with an exit."""
    seen: list[Cause] = []

    def make() -> weakref.ref[Value]:
        cache: Cache[str, Value] = Cache(10, on_exit=lambda _key, _value, cause: seen.append(cause))
        value = Value()
        value.cache = cache  # type: ignore[attr-defined]
        cache.set("a", value)
        return weakref.ref(value)

    alive = make()
    gc.collect()
    assert alive() is None
    assert seen == [Cause.CLOSED]


def test_a_dropped_cache_exits_its_values() -> None:
    """Forgetting to close loses no exit; a lease keeps the cache until it is released."""
    seen: list[tuple[str, Cause]] = []
    cache: Cache[str, int] = Cache(10, on_exit=lambda key, _value, cause: seen.append((key, cause)))
    cache.set("a", 1)
    cache.set("b", 2)
    lease = cache.acquire("a")
    assert lease is not None
    del cache
    assert seen == []
    lease.release()
    assert sorted(seen) == [("a", Cause.CLOSED), ("b", Cause.CLOSED)]


def test_a_lost_lease_is_released_and_reported() -> None:
    """A lease that is collected gives its value back, warns, and is counted."""
    seen: list[Cause] = []
    cache: Cache[str, int] = Cache(10, on_exit=lambda _key, _value, cause: seen.append(cause))
    cache.set("a", 1)
    lease = cache.acquire("a")
    cache.delete("a")
    with pytest.warns(ResourceWarning, match="unreleased"):
        del lease
    assert seen == [Cause.DELETED]
    assert cache.stats().lost_leases == 1
    cache.audit()


@pytest.fixture
def hurry() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Hammer:
    """A cache under many threads, and what it should have done."""

    def __init__(self) -> None:
        self.cache: Cache[object, int] = Cache(50, on_exit=self.listener, ttl=0.01)
        self.lock = threading.Lock()
        self.entered: list[int] = []
        self.exits: Counter[int] = Counter()
        self.leased: Counter[int] = Counter()
        self.left_while_leased: list[int] = []

    def listener(self, _key: object, value: int, _cause: Cause) -> None:
        with self.lock:
            self.exits[value] += 1
            if self.leased[value]:
                self.left_while_leased.append(value)

    def take(self, lease: Lease[int] | None, leases: list[Lease[int]]) -> None:
        if lease is not None:
            with self.lock:
                self.leased[lease.value] += 1
            leases.append(lease)

    def give_back(self, lease: Lease[int]) -> None:
        with self.lock:
            self.leased[lease.value] -= 1
        lease.release()

    def work(self, thread: int) -> None:
        choose = random.Random(thread)
        leases: list[Lease[int]] = []
        for step in range(4_000):
            key = choose.randrange(120)
            what = choose.random()
            if what < 0.3:
                value = thread * 1_000_000 + step
                self.entered.append(value)
                self.cache.set(key, value, choose.choice([0, 1, 1, 5, 51]))
            elif what < 0.45:
                self.take(self.cache.acquire(key), leases)
            elif what < 0.55 and leases:
                self.give_back(leases.pop(choose.randrange(len(leases))))
            else:
                self.something_else(choose, key)
        for lease in leases:
            self.give_back(lease)

    def something_else(self, choose: random.Random, key: int) -> None:
        what = choose.random()
        if what < 0.85:
            self.cache.get(key)
        elif what < 0.92:
            self.cache.delete(key)
        elif what < 0.97:
            self.cache.expire()
        elif what < 0.99:
            self.cache.max_cost = choose.choice([10, 50, 80])
        else:
            self.cache.clear()


@pytest.mark.usefixtures("hurry")
def test_the_ledger_balances_under_threads() -> None:
    """Eight threads do everything at once; every value leaves once, and never while it is leased."""
    hammer = Hammer()
    threads = [threading.Thread(target=hammer.work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hammer.cache.audit()
    hammer.cache.close()
    assert hammer.left_while_leased == []
    assert set(hammer.exits.values()) == {1}
    assert set(hammer.exits) == set(hammer.entered)
    stats = hammer.cache.stats()
    assert (stats.entries, stats.leases, stats.retired, stats.listener_errors) == (0, 0, 0, 0)


def test_costs_near_the_end_of_numbers() -> None:
    """Sums of costs of 63 bits do not overflow."""
    top = 2**63 - 1
    cache: Cache[int, int] = Cache(top)
    assert cache.set(1, 1, top) is Outcome.ADDED
    assert cache.set(2, 2, top) is Outcome.ADDED
    assert cache.get(1) is None
    assert cache.set(3, 3, top - 1) is Outcome.ADDED
    assert cache.set(4, 4, 1) is Outcome.ADDED
    assert cache.cost == top
    assert cache.set(5, 5, 2**63) is Outcome.REJECTED
    assert cache.set(5, 5, 10**40) is Outcome.REJECTED
    cache.audit()


def test_a_forked_child_delivers() -> None:
    """A child that is forked while a thread of the parent is in a listener delivers its own exits."""
    program = """
        import os, threading
        from bridgecore import Cache
        inside, leave = threading.Event(), threading.Event()
        parent, seen = os.getpid(), []
        def listener(key, value, cause):
            seen.append(key)
            if os.getpid() == parent:
                inside.set()
                leave.wait()
        cache = Cache(10, on_exit=listener)
        cache.set("a", 1)
        thread = threading.Thread(target=lambda: cache.delete("a"))
        thread.start()
        inside.wait()
        child = os.fork()
        if child == 0:
            cache.set("b", 2)
            cache.delete("b")
            os._exit(0 if seen == ["a", "b"] else 1)
        status = os.waitpid(child, 0)[1]
        leave.set()
        thread.join()
        raise SystemExit(os.waitstatus_to_exitcode(status))
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program)], check=False, timeout=60
    )
    assert done.returncode == 0


def test_a_listener_that_forks_does_not_recurse_in_the_child() -> None:
    """In the child, too, what the listener causes is delivered after it has returned."""
    program = """
        import os
        from bridgecore import Cache
        depth, deepest, children = 0, 0, []
        def listener(key, value, cause):
            global depth, deepest
            depth += 1
            deepest = max(deepest, depth)
            if key == "a":
                children.append(os.fork())
                cache.set("b", 2)
                cache.delete("b")
            depth -= 1
        cache = Cache(10, on_exit=listener)
        cache.set("a", 1)
        cache.delete("a")
        if children == [0]:
            os._exit(deepest)
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) * 10 + deepest)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=60)
    assert done.returncode == 11


@pytest.mark.parametrize("script", sorted((ROOT / "tests/isolated").glob("*.py")), ids=lambda path: path.stem)
def test_in_an_interpreter_of_its_own(script: Path) -> None:
    """The script ends well and prints nothing, with every warning an error."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
