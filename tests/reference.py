"""The cache of docs/cache.md once more, written from that page in plain and slow Python.

It is what the compiled cache is compared with after every step. Everything the page calls a list is an ordered dict
here, least recent first; nothing is bounded, packed or fast. Calls from several threads are not supported.
"""

import heapq
import math
import operator
import os
import sys
import time
import types
import warnings
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final, Generic, SupportsFloat, SupportsIndex, TypeVar, cast

from bridgecore import Cause, Closed, Outcome, Stats

K = TypeVar("K")
V = TypeVar("V")

WORD: Final = 2**64 - 1
NEVER_NS: Final = 2**63 - 1
NEVER_S: Final = 9.2e9  # the 292 years of the page
TICK_BITS: Final = 30
SWEPT_BY_A_SET: Final = 64
MOVES_A_CALL: Final = 64
ATTEMPTS: Final = 16
ARMS: Final = (1, 20, 99)


def splitmix64(state: int) -> tuple[int, int]:
    """Return the next state and the number that comes with it."""
    state = (state + 0x9E3779B97F4A7C15) & WORD
    number = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & WORD
    number = (number ^ number >> 27) * 0x94D049BB133111EB & WORD
    return state, number ^ number >> 31


def rotate(word: int, bits: int) -> int:
    """Return *word* with its *bits* highest bits moved to the low end."""
    return (word << bits | word >> 64 - bits) & WORD


def sip_round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    """Return the four words after one SipRound."""
    v0 = v0 + v1 & WORD
    v1 = rotate(v1, 13) ^ v0
    v0 = rotate(v0, 32)
    v2 = v2 + v3 & WORD
    v3 = rotate(v3, 16) ^ v2
    v0 = v0 + v3 & WORD
    v3 = rotate(v3, 21) ^ v0
    v2 = v2 + v1 & WORD
    v1 = rotate(v1, 17) ^ v2
    return v0, v1, rotate(v2, 32), v3


@lru_cache(100_000)
def siphash13(message: bytes, k0: int, k1: int) -> int:
    """Return SipHash-1-3 of *message* under the two words of a key."""
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    padded = message + bytes(-(len(message) + 1) % 8) + bytes([len(message) % 256])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v0, v1, v2, v3 = sip_round(v0, v1, v2, v3 ^ word)
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = sip_round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def part_of(key: Any) -> bytes:
    """Return the bytes that stand for *key*, or for a part of one; runs its `__hash__` unless it is a known one."""
    hash_of_kind: Any = type(key).__hash__
    if hash_of_kind is str.__hash__:
        text = "".join(key)
        widest = max(map(ord, text), default=0)
        return text.encode(
            "latin-1" if widest < 2**8 else "utf-16-le" if widest < 2**16 else "utf-32-le", "surrogatepass"
        )
    if hash_of_kind is bytes.__hash__:
        return bytes(key)
    value = hash(key)
    if hash_of_kind is memoryview.__hash__:
        return bytes(key)
    return (value & WORD).to_bytes(8, "little")


def message_of(key: Any) -> bytes:
    """Return the bytes that are hashed for *key*: a tuple of two is hashed by its parts."""
    hash_of_kind: Any = type(key).__hash__
    if hash_of_kind is not cast("Any", tuple).__hash__ or len(key) != 2:
        return part_of(key)
    a, b = part_of(key[0]), part_of(key[1])
    return len(a).to_bytes(8, "little") + a + bytes(-len(a) % 8) + b


def nanoseconds(seconds: float) -> int:
    """Return *seconds* in whole nanoseconds, rounded down, and at most what never comes."""
    return NEVER_NS if seconds >= NEVER_S else math.floor(seconds * 1e9)


def lifetime(ttl: SupportsFloat | None) -> int | None:
    """Return the nanoseconds of *ttl*, None for no end."""
    if ttl is None:
        return None
    if not hasattr(ttl, "__float__") and not hasattr(ttl, "__index__"):
        raise TypeError(f"ttl must be a number of seconds or None, got {type(ttl).__name__}")
    seconds = float(ttl)
    if not seconds > 0:
        raise ValueError(f"ttl must be above 0 seconds, got {ttl!r}")
    return None if math.isinf(seconds) else max(1, nanoseconds(seconds))


def integer(name: str, value: SupportsIndex) -> int:
    """Return *value*, the argument called *name*, as an int."""
    try:
        return operator.index(value)
    except TypeError:
        if hasattr(value, "__index__"):
            raise
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None


def natural(name: str, value: SupportsIndex) -> int:
    """Return *value*, the argument called *name*, which may not be below 0."""
    number = integer(name, value)
    if number < 0:
        raise ValueError(f"{name} must be 0 or more, got {number}")
    return number


def maximum(value: SupportsIndex) -> int:
    """Return *value* if it is a possible `max_cost`."""
    number = integer("max_cost", value)
    if not 1 <= number < 2**63:
        raise ValueError(f"max_cost must be from 1 to 2**63 - 1, got {number}")
    return number


class Sketch:
    """Counts uses in four counters a hash, and says how often one was used lately, at most 15."""

    def __init__(self, max_cost: int) -> None:
        self.halvings = self.doublings = 0
        self.make_anew(max_cost)

    def make_anew(self, max_cost: int) -> None:
        """Forget everything, and begin with the size for *max_cost*."""
        self.blocks = max(max_cost // 4 + 1, 32)
        while self.blocks >= 64:
            self.blocks = (self.blocks + 1) // 2
        self.counters = [0] * (self.blocks * 128)
        self.additions = 0

    def places(self, h: int) -> list[int]:
        """Return where the four counters of the hash are."""
        first = (h >> 32) * self.blocks >> 32
        return [first * 128 + (2 * row + (h >> 5 * row & 1)) * 16 + (h >> 5 * row + 1 & 15) for row in range(4)]

    def frequency(self, h: int) -> int:
        """Return how often the hash was seen."""
        counters = self.counters
        return min([counters[place] for place in self.places(h)])

    def increment(self, h: int, entries: int) -> None:
        """Count one use while *entries* are in the lists; halve all counters when there were enough."""
        did_rise = False
        for place in self.places(h):
            if self.counters[place] < 15:
                self.counters[place] += 1
                did_rise = True
        if not did_rise:
            return
        self.additions += 1
        if self.additions >= 20 * max(entries, self.blocks // 2):
            odd = sum(counter % 2 for counter in self.counters)
            self.counters = [counter // 2 for counter in self.counters]
            self.additions = max(0, self.additions - odd // 4) // 2
            self.halvings += 1

    def fit(self, entries: int) -> None:
        """Double the blocks once if *entries* have become too many for them."""
        if 2 * entries <= self.blocks * 8:
            return
        doubled: list[int] = []
        for at in range(0, len(self.counters), 128):
            doubled += self.counters[at : at + 128] * 2
        self.counters = doubled
        self.blocks *= 2
        self.doublings += 1


class Item:
    """What the policy knows of an entry."""

    def __init__(self, h: int, cost: int) -> None:
        self.hash = h
        self.cost = cost
        self.queue: Queue | None = None


class Queue:
    """One of the three lists, from least to most recently used."""

    def __init__(self) -> None:
        self.items: OrderedDict[Item, None] = OrderedDict()
        self.cost = 0

    def __len__(self) -> int:
        return len(self.items)

    @property
    def oldest(self) -> Item:
        """The least recently used."""
        return next(iter(self.items))

    def append(self, item: Item) -> None:
        """Take *item* at the most recent end."""
        self.items[item] = None
        self.cost += item.cost
        item.queue = self

    def remove(self, item: Item) -> None:
        """Let go of *item*."""
        del self.items[item]
        self.cost -= item.cost
        item.queue = None


class Policy:
    """Three lists under a maximum; what it evicts it hands to *evict*, which must call `remove`."""

    def __init__(
        self, max_cost: int, window_max: int, sketch: Sketch, state: int, evict: Callable[[Any], None]
    ) -> None:
        self.max_cost = max_cost
        self.window_max = window_max
        self.window, self.probation, self.protected = self.queues = Queue(), Queue(), Queue()
        self.sketch = sketch
        self.state = state
        self.evict = evict
        self.events: Counter[str] = Counter()

    @property
    def entries(self) -> int:
        """The number of entries in the three lists."""
        return sum(map(len, self.queues))

    @property
    def total(self) -> int:
        """The sum of the costs in the three lists."""
        return sum(queue.cost for queue in self.queues)

    def append(self, item: Item) -> None:
        """Take a new entry into the window."""
        self.window.append(item)

    def remove(self, item: Item) -> None:
        """Let go of an entry, wherever it is."""
        queue = item.queue
        assert queue is not None
        queue.remove(item)

    def change_cost(self, item: Item, cost: int) -> None:
        """Give an entry another cost, and the most recent place in its list."""
        queue = item.queue
        assert queue is not None
        queue.remove(item)
        item.cost = cost
        queue.append(item)

    def use(self, item: Item) -> None:
        """Move an entry that was used."""
        queue = item.queue
        assert queue is not None
        queue.remove(item)
        (self.protected if queue is self.probation else queue).append(item)
        protected_max = (self.max_cost - self.window_max) * 4 // 5
        for _ in range(MOVES_A_CALL):
            if self.protected.cost <= protected_max or len(self.protected) <= 1:
                return
            demoted = self.protected.oldest
            self.protected.remove(demoted)
            self.probation.append(demoted)
            self.events["demoted"] += 1

    def make_room(self, kept: Item | None) -> None:
        """Do both steps, and do not evict *kept*."""
        self._shorten_window(kept)
        while self.total > self.max_cost:
            self.evict(self._victim([self.probation, self.protected, self.window], kept))

    def _shorten_window(self, kept: Item | None) -> None:
        moves = 0
        while self.window.cost > self.window_max and len(self.window) > 1:
            candidate = self.window.oldest
            if self.total <= self.max_cost:
                if moves == MOVES_A_CALL:
                    self.events["paused"] += 1
                    return
                moves += 1
                self._promote(candidate)
                continue
            victim = self._victim([self.probation, self.protected], kept)
            if victim is not None and self._is_better(candidate, victim):
                self._promote(candidate)
                self.evict(victim)
            else:
                self.evict(candidate)

    def _promote(self, candidate: Item) -> None:
        self.window.remove(candidate)
        self.probation.append(candidate)

    def _victim(self, queues: list[Queue], kept: Item | None) -> Item | None:
        for queue in queues:
            if len(queue) and queue.oldest is not kept:
                return queue.oldest
        return None

    def _is_better(self, candidate: Item, victim: Item) -> bool:
        known = self.sketch.frequency(candidate.hash)
        if known > self.sketch.frequency(victim.hash):
            self.events["won"] += 1
            return True
        if known < 6:
            self.events["lost"] += 1
            return False
        self.state, number = splitmix64(self.state)
        is_lucky = number % 128 == 0
        self.events["lucky" if is_lucky else "unlucky"] += 1
        return is_lucky


class Shadow:
    """A small cache of hashes that shows how many hits another window would have had."""

    def __init__(self, max_cost: int, window_max: int, sketch: Sketch) -> None:
        self.items: dict[int, Item] = {}
        self.policy = Policy(max_cost, window_max, sketch, 0, self._drop)
        self.hits = 0

    def _drop(self, item: Item) -> None:
        self.policy.remove(item)
        del self.items[item.hash]

    def ask(self, h: int, cost: int) -> None:
        """Look for the hash as the cache would look for the key, and set it if it is not there."""
        item = self.items.get(h)
        self.hits += item is not None
        if cost > self.policy.max_cost:
            if item is not None:
                self._drop(item)
            return
        if item is None:
            item = self.items[h] = Item(h, cost)
            self.policy.append(item)
        else:
            if item.cost != cost:
                self.policy.change_cost(item, cost)
            self.policy.use(item)
        self.policy.make_room(item)


class Chooser:
    """Chooses the share of the window by the hits of three shadows."""

    def __init__(self, sketch: Sketch, max_cost: int) -> None:
        self.sketch = sketch
        self.arm = 0
        self.choices = self.remakes = 0
        self.remake(max_cost, max_cost)

    @staticmethod
    def share(arm: int, max_cost: int) -> int:
        """Return the window of *arm* in a cache of *max_cost*."""
        return max(1, max_cost // 100 * ARMS[arm] + max_cost % 100 * ARMS[arm] // 100)

    @property
    def window_max(self) -> int:
        """The window of the cache."""
        return self.share(self.arm, self.max_cost)

    def remake(self, max_cost: int, n: int) -> None:
        """Begin with empty shadows, made for *n* entries."""
        self.max_cost = max_cost
        self.n = n
        self.bits = 0
        while n >> self.bits > 1024:
            self.bits += 1
        while n >> self.bits >= 96 and self.bits < 6:
            self.bits += 1
        size = max(1, max_cost >> self.bits)
        self.shadows = [Shadow(size, self.share(arm, size), self.sketch) for arm in range(len(ARMS))]
        self.uses = self.sampled = 0
        self.remakes += 1

    def notice(self, entries: int) -> None:
        """Learn how many entries there were before an eviction."""
        if entries > 2 * self.n or 2 * entries < self.n:
            self.remake(self.max_cost, entries)

    def tell(self, h: int, cost: int) -> None:
        """Learn of a use."""
        if (h >> 20) % (1 << self.bits) == 0:
            self.sampled += 1
            for shadow in self.shadows:
                shadow.ask(h, cost)
        self.uses += 1
        if self.uses == self.n:
            self._choose()

    def _choose(self) -> None:
        hits = [shadow.hits for shadow in self.shadows]
        best = self.arm
        for arm, count in enumerate(hits):
            if count > hits[best]:
                best = arm
        if hits[best] > hits[self.arm] + self.sampled // 200:
            self.arm = best
            self.choices += 1
        for shadow in self.shadows:
            shadow.hits = shadow.hits * 9 // 10
        self.sampled = self.sampled * 9 // 10
        self.uses = 0


class Holding(Generic[K, V]):
    """A value that entered, with its key, the number of its leases, and why it left, once it has."""

    def __init__(self, key: K, value: V) -> None:
        self.key = key
        self.value = value
        self.leases = 0
        self.cause: Cause | None = None


class Entry(Item, Generic[K, V]):
    """A key and its present value."""

    def __init__(self, h: int, holding: Holding[K, V]) -> None:
        super().__init__(h, 0)
        self.holding = holding
        self.deadline: int | None = None
        self.is_held = True

    @property
    def key(self) -> K:
        """The key as it was when the present value was set."""
        return self.holding.key


class Timers:
    """Entries by the tick of their deadline and, within it, in the order in which the deadlines were set."""

    def __init__(self) -> None:
        self._ticks: dict[int, OrderedDict[Entry[Any, Any], None]] = {}
        self._order: list[int] = []
        self.count = 0

    def add(self, entry: Entry[Any, Any]) -> None:
        """Take in an entry with a deadline."""
        assert entry.deadline is not None
        tick = entry.deadline >> TICK_BITS
        if tick not in self._ticks:
            self._ticks[tick] = OrderedDict()
            heapq.heappush(self._order, tick)
        self._ticks[tick][entry] = None
        self.count += 1

    def remove(self, entry: Entry[Any, Any]) -> None:
        """Let go of an entry with a deadline."""
        assert entry.deadline is not None
        del self._ticks[entry.deadline >> TICK_BITS][entry]
        self.count -= 1

    def first(self) -> tuple[int, Entry[Any, Any]] | None:
        """Return the first tick that has an entry, and that entry."""
        while self._order:
            entries = self._ticks[self._order[0]]
            if entries:
                return self._order[0], next(iter(entries))
            del self._ticks[heapq.heappop(self._order)]
        return None


class ReferenceLease(Generic[V]):
    """Keeps a value from leaving for as long as it is used."""

    def __init__(self, cache: "ReferenceCache[Any, V]", holding: Holding[Any, V], outcome: Outcome | None) -> None:
        self._cache = cache
        self._holding = holding
        self._outcome = outcome
        self._is_released = False

    @property
    def value(self) -> V:
        """The leased value."""
        if self._is_released:
            raise RuntimeError("the lease was released")
        return self._holding.value

    @property
    def outcome(self) -> Outcome | None:
        """How the set went that this lease came from."""
        return self._outcome

    @property
    def is_live(self) -> bool:
        """Whether the value is still in the cache."""
        return self._holding.cause is None

    @property
    def is_released(self) -> bool:
        """Whether the lease was released."""
        return self._is_released

    def share(self) -> "ReferenceLease[V]":
        """Return another lease on the same value."""
        if self._is_released:
            raise RuntimeError("the lease was released")
        return self._cache.lend(self._holding, None)

    def release(self) -> None:
        """Give the value back."""
        if not self._is_released:
            self._is_released = True
            self._cache.give_back(self._holding)

    def __enter__(self) -> V:
        return self.value

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        if not self._is_released:
            self._cache.count_lost_lease()
            self.release()
            warnings.warn("a lease was collected without having been released", ResourceWarning, stacklevel=2)


class ReferenceCache(Generic[K, V]):
    """The compiled cache's API; see docs/cache.md for what it does."""

    def __init__(
        self,
        max_cost: int,
        *,
        ttl: float | None = None,
        on_exit: Callable[[K, V, Cause], object] | None = None,
        clock: Callable[[], float] | None = None,
        seed: int | None = None,
    ) -> None:
        max_cost = maximum(max_cost)
        self._lifetime = lifetime(ttl)
        for name, function in (("on_exit", on_exit), ("clock", clock)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable, got {type(function).__name__}")
        state = int.from_bytes(os.urandom(8), "little") if seed is None else integer("seed", seed) & WORD
        state, self._k0 = splitmix64(state)
        state, self._k1 = splitmix64(state)
        state, start = splitmix64(state)
        self._sketch = Sketch(max_cost)
        self._chooser = Chooser(self._sketch, max_cost)
        self._policy = Policy(max_cost, self._chooser.window_max, self._sketch, start, self._evict)
        self._on_exit = on_exit
        self._clock = time.monotonic if clock is None else clock
        self._now = 0
        self._generation = 0
        self._places: dict[int, list[Entry[K, V]]] = {}
        self._entries: dict[Entry[K, V], None] = {}
        self._timers = Timers()
        self._changes = 0
        self._pinned = self._leases = self._retired = 0
        self._waiting: deque[Holding[K, V]] = deque()
        self._is_delivering = False
        self.reset_stats()
        self._is_closed = False

    _is_closed = True  # until it is whole: `__del__` runs even if `__init__` raises

    def __del__(self) -> None:
        if not self._is_closed and self._on_exit is not None:
            self.close()

    # What is visible

    @property
    def max_cost(self) -> int:
        """The bound on the sum of all costs; lowering it evicts at once."""
        return self._policy.max_cost

    @max_cost.setter
    def max_cost(self, value: int) -> None:
        max_cost = maximum(value)
        self._check_open()
        if self._sketch.blocks > max(32, max_cost):
            self._sketch.make_anew(max_cost)
        self._policy.max_cost = max_cost
        self._chooser.remake(max_cost, max_cost)
        self._policy.window_max = self._chooser.window_max
        self._policy.make_room(None)
        self._deliver()

    @property
    def cost(self) -> int:
        """The sum of the costs of all entries."""
        return self._policy.total

    @property
    def generation(self) -> int:
        """The number of the generation."""
        return self._generation

    @property
    def is_closed(self) -> bool:
        """Whether the cache was closed."""
        return self._is_closed

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        entry, _, now = self._look(key)
        return entry is not None and not self._is_over(entry, now)

    def __iter__(self) -> Iterator[K]:
        return iter([key for key, _ in self.items()])

    def items(self) -> list[tuple[K, V]]:
        """Return a snapshot of keys and values."""
        self._check_open()
        now = self._read_clock(has_ttl=False)
        self._check_open()
        return [(entry.key, entry.holding.value) for entry in self._entries if not self._is_over(entry, now)]

    def stats(self) -> Stats:
        """Return one consistent snapshot of counters and sizes."""
        return Stats(
            hits=self._hits,
            misses=self._misses,
            added=self._outcomes[Outcome.ADDED],
            updated=self._outcomes[Outcome.UPDATED],
            exits={cause: self._exits[cause] for cause in Cause},
            entries=len(self._entries),
            pinned=self._pinned,
            cost=self.cost,
            max_cost=self.max_cost,
            window_cost=self._policy.window.cost,
            leases=self._leases,
            retired=self._retired,
            lost_leases=self._lost_leases,
            listener_errors=self._listener_errors,
        )

    def reset_stats(self) -> None:
        """Set the counters to zero."""
        self._hits = self._misses = self._lost_leases = self._listener_errors = 0
        self._outcomes: Counter[Outcome] = Counter()
        self._exits: Counter[Cause] = Counter()

    def audit(self) -> None:
        """Raise AssertionError if the structure breaks one of its rules."""
        in_lists = [item for queue in self._policy.queues for item in queue.items]
        unpinned = [entry for entry in self._entries if entry.cost > 0]
        assert sorted(map(id, in_lists)) == sorted(map(id, unpinned))
        assert self._pinned == len(self._entries) - len(unpinned)
        assert self.cost == sum(entry.cost for entry in self._entries) <= self.max_cost
        assert sorted(map(id, self._entries)) == sorted(
            map(id, (entry for row in self._places.values() for entry in row))
        )
        assert self._timers.count == sum(entry.deadline is not None for entry in self._entries)
        assert all(entry.is_held and entry.holding.cause is None for entry in self._entries)
        assert not self._is_closed or not self._entries

    def snapshot(self) -> dict[str, Any]:
        """Return what the policy holds and knows."""
        window, probation, protected = (
            [cast("Entry[K, V]", item).key for item in queue.items] for queue in self._policy.queues
        )
        return {
            "window": window,
            "probation": probation,
            "protected": protected,
            "pinned": {entry.key for entry in self._entries if entry.cost == 0},
            "window_max": self._policy.window_max,
            "additions": self._sketch.additions,
            "frequencies": {entry.key: self._sketch.frequency(entry.hash) for entry in self._entries},
        }

    _snapshot = snapshot

    def events(self) -> Counter[str]:
        """Return how often the rarer things happened, so that a test can assert that they did."""
        return self._policy.events + Counter(
            halved=self._sketch.halvings,
            doubled=self._sketch.doublings,
            chosen=self._chooser.choices,
            remade=self._chooser.remakes - 1,
        )

    # Calls

    def get(self, key: K, default: Any = None, /) -> Any:
        """Return the value of *key*, or *default*."""
        entry = self._use(key)
        self._deliver()
        return default if entry is None else entry.holding.value

    def get2(self, a: object, b: object, default: Any = None, /) -> Any:
        """Return the value of the key `(a, b)`, or *default*."""
        return self.get(cast("K", (a, b)), default)

    def acquire(self, key: K) -> ReferenceLease[V] | None:
        """Return a lease on the value of *key*, or None."""
        entry = self._use(key)
        lease = None if entry is None else self.lend(entry.holding, None)
        self._deliver()
        return lease

    def acquire2(self, a: object, b: object) -> ReferenceLease[V] | None:
        """Return a lease on the value of the key `(a, b)`, or None."""
        return self.acquire(cast("K", (a, b)))

    def set(self, key: K, value: V, cost: int = 1, ttl: float | None = None, generation: int | None = None) -> Outcome:
        """Make *value* the value of *key*; return what became of it."""
        outcome, _ = self._set(key, value, cost, ttl, generation, leases=0)
        self._deliver()
        return outcome

    def set2(
        self, a: object, b: object, value: V, cost: int = 1, ttl: float | None = None, generation: int | None = None
    ) -> Outcome:
        """Do what `set` does, for the key `(a, b)`."""
        return self.set(cast("K", (a, b)), value, cost, ttl, generation)

    def set_and_acquire(
        self, key: K, value: V, cost: int = 1, ttl: float | None = None, generation: int | None = None
    ) -> ReferenceLease[V]:
        """Do what `set` does, and lease the value in the same step."""
        outcome, holding = self._set(key, value, cost, ttl, generation, leases=1)
        lease = ReferenceLease(self, holding, outcome)
        self._deliver()
        return lease

    def set_and_acquire2(
        self, a: object, b: object, value: V, cost: int = 1, ttl: float | None = None, generation: int | None = None
    ) -> ReferenceLease[V]:
        """Do what `set_and_acquire` does, for the key `(a, b)`."""
        return self.set_and_acquire(cast("K", (a, b)), value, cost, ttl, generation)

    def touch(self, key: K, ttl: float | None = None) -> bool:
        """Start the time to live of *key* anew; return whether it was there."""
        length = self._lifetime if ttl is None else lifetime(ttl)
        entry, _, now = self._look(key, has_ttl=length is not None)
        entry = self._meet(entry, now)
        if entry is not None:
            self._set_deadline(entry, length, now)
        self._deliver()
        return entry is not None

    def delete(self, key: K) -> bool:
        """Drop *key*; return whether it was there."""
        entry, _, now = self._look(key)
        entry = self._meet(entry, now)
        if entry is not None:
            self._take_out(entry, Cause.DELETED)
        self._deliver()
        return entry is not None

    def delete2(self, a: object, b: object) -> bool:
        """Drop the key `(a, b)`; return whether it was there."""
        return self.delete(cast("K", (a, b)))

    def clear(self) -> int:
        """Drop everything; return the number of the generation that begins."""
        self._check_open()
        self._generation += 1
        generation = self._generation
        self._take_all(Cause.CLEARED)
        self._deliver()
        return generation

    def close(self) -> None:
        """Drop everything and refuse all later use."""
        self._is_closed = True
        self._take_all(Cause.CLOSED)
        self._deliver()

    def expire(self, limit: int = 1000) -> int:
        """Drop entries whose time is over, at most *limit* of them; return how many."""
        limit = natural("limit", limit)
        self._check_open()
        now = self._read_clock(has_ttl=False)
        self._check_open()
        count = self._sweep(limit, now)
        self._deliver()
        return count

    def next_deadline(self) -> float | None:
        """Return when `expire` has work."""
        first = self._timers.first()
        return None if first is None else ((first[0] + 1) << TICK_BITS) / 1e9

    # What leases call

    def give_back(self, holding: Holding[K, V]) -> None:
        """Take back one lease."""
        holding.leases -= 1
        self._leases -= 1
        if holding.leases == 0 and holding.cause is not None:
            self._retired -= 1
            self._let_go(holding, holding.cause)
        self._deliver()

    def count_lost_lease(self) -> None:
        """Count a lease that was never released."""
        self._lost_leases += 1

    # Foreign code

    def _check_open(self) -> None:
        if self._is_closed:
            raise Closed("the cache is closed")

    def _read_clock(self, *, has_ttl: bool) -> int:
        if has_ttl or self._timers.count:
            seconds = float(self._clock())
            if not math.isfinite(seconds):
                raise ValueError(f"clock must return finite seconds, got {seconds}")
            self._now = max(self._now, nanoseconds(seconds))
        return self._now

    def _look(self, key: object, *, has_ttl: bool = False) -> tuple[Entry[K, V] | None, int, int]:
        """Return the entry of *key*, expired or not, the hash, and the time; nothing foreign runs after that."""
        self._check_open()
        h = siphash13(message_of(key), self._k0, self._k1)
        now = self._read_clock(has_ttl=has_ttl)
        entry = self._find(key, h)
        self._check_open()
        return entry, h, now

    def _find(self, key: object, h: int) -> Entry[K, V] | None:
        for _ in range(ATTEMPTS):
            changes = self._changes
            for entry in list(self._places.get(h, [])):
                is_same = entry.key is key or bool(entry.key == key)
                if changes != self._changes:
                    break
                if is_same:
                    return entry
            else:
                return None
        raise RuntimeError(f"the cache was changed by the comparison of keys, {ATTEMPTS} times in a row")

    # Changes

    @staticmethod
    def _is_over(entry: Entry[K, V], now: int) -> bool:
        return entry.deadline is not None and entry.deadline <= now

    def _meet(self, entry: Entry[K, V] | None, now: int) -> Entry[K, V] | None:
        """Return *entry* if it is there and its time is not over; take it out if it is."""
        if entry is None or not entry.is_held:
            return None
        if self._is_over(entry, now):
            self._take_out(entry, Cause.EXPIRED)
            return None
        return entry

    def _use(self, key: K) -> Entry[K, V] | None:
        entry, _, now = self._look(key)
        entry = self._meet(entry, now)
        if entry is None:
            self._misses += 1
            return None
        self._hits += 1
        if entry.cost > 0:
            self._count_use(entry.hash, entry.cost)
            self._policy.use(entry)
        return entry

    def _set(
        self, key: K, value: V, cost: int, ttl: float | None, generation: int | None, leases: int
    ) -> tuple[Outcome, Holding[K, V]]:
        cost = natural("cost", cost)
        length = self._lifetime if ttl is None else lifetime(ttl)
        number = None if generation is None else natural("generation", generation)
        entry, h, now = self._look(key, has_ttl=length is not None)
        number = self._generation if number is None else number
        if number > self._generation:
            raise ValueError(f"generation {number} has not begun; the current one is {self._generation}")
        self._sweep(SWEPT_BY_A_SET, now)
        entry = self._meet(entry, now)
        holding = Holding(key, value) if entry is None or entry.holding.value is not value else entry.holding
        holding.leases += leases
        self._leases += leases
        if number < self._generation:
            outcome = Outcome.STALE
            if entry is None or entry.holding is not holding:
                self._retire(holding, Cause.STALE)
        elif cost > self.max_cost:
            outcome = Outcome.REJECTED
            self._refuse_costly(entry, holding)
        else:
            outcome = Outcome.ADDED if entry is None else Outcome.UPDATED
            entry = entry or self._new_entry(h, holding)
            self._store(entry, holding, cost)
            self._set_deadline(entry, length, now)
            self._policy.make_room(entry)
        self._outcomes[outcome] += 1
        return outcome, holding

    def _refuse_costly(self, entry: Entry[K, V] | None, holding: Holding[K, V]) -> None:
        if entry is not None:
            self._take_out(entry, Cause.REJECTED if entry.holding is holding else Cause.REPLACED)
        if holding.cause is None:
            self._retire(holding, Cause.REJECTED)

    def _new_entry(self, h: int, holding: Holding[K, V]) -> Entry[K, V]:
        entry = Entry(h, holding)
        self._places.setdefault(h, []).append(entry)
        self._entries[entry] = None
        self._changes += 1
        self._pinned += 1
        return entry

    def _store(self, entry: Entry[K, V], holding: Holding[K, V], cost: int) -> None:
        """Give an entry, which is pinned when it is new, its value and its cost."""
        if entry.holding is not holding:
            self._retire(entry.holding, Cause.REPLACED)
            entry.holding = holding
        self._pinned += (cost == 0) - (entry.cost == 0)
        if entry.cost == 0:
            entry.cost = cost
            if cost > 0:
                self._count_use(entry.hash, cost)
                self._policy.append(entry)
                self._sketch.fit(self._policy.entries)
        elif cost == 0:
            self._policy.remove(entry)
            entry.cost = 0
        else:
            self._policy.change_cost(entry, cost)
            self._count_use(entry.hash, cost)
            self._policy.use(entry)

    def _count_use(self, h: int, cost: int) -> None:
        self._sketch.increment(h, self._policy.entries)
        self._chooser.tell(h, cost)
        self._policy.window_max = self._chooser.window_max

    def _set_deadline(self, entry: Entry[K, V], length: int | None, now: int) -> None:
        if entry.deadline is not None:
            self._timers.remove(entry)
        entry.deadline = None if length is None or now + length >= NEVER_NS else now + length
        if entry.deadline is not None:
            self._timers.add(entry)

    def _evict(self, entry: Entry[K, V]) -> None:
        self._chooser.notice(self._policy.entries)
        self._take_out(entry, Cause.EVICTED)

    def _take_out(self, entry: Entry[K, V], cause: Cause) -> None:
        self._changes += 1
        entry.is_held = False
        self._places[entry.hash].remove(entry)
        if not self._places[entry.hash]:
            del self._places[entry.hash]
        del self._entries[entry]
        if entry.cost > 0:
            self._policy.remove(entry)
        else:
            self._pinned -= 1
        if entry.deadline is not None:
            self._timers.remove(entry)
        self._retire(entry.holding, cause)

    def _take_all(self, cause: Cause) -> None:
        for entry in list(self._entries):
            self._take_out(entry, cause)

    def _sweep(self, limit: int, now: int) -> int:
        for count in range(limit):
            first = self._timers.first()
            if first is None or first[0] >= now >> TICK_BITS:
                return count
            self._take_out(first[1], Cause.EXPIRED)
        return limit

    # Exits

    def lend(self, holding: Holding[K, V], outcome: Outcome | None) -> ReferenceLease[V]:
        """Return a new lease."""
        holding.leases += 1
        self._leases += 1
        return ReferenceLease(self, holding, outcome)

    def _retire(self, holding: Holding[K, V], cause: Cause) -> None:
        holding.cause = cause
        if holding.leases:
            self._retired += 1
        else:
            self._let_go(holding, cause)

    def _let_go(self, holding: Holding[K, V], cause: Cause) -> None:
        self._exits[cause] += 1
        self._waiting.append(holding)

    def _deliver(self) -> None:
        """Call the listener, if there is one, for all that wait; a call that this causes leaves it to the first."""
        if self._is_delivering:
            return
        self._is_delivering = True
        stop: BaseException | None = None
        while self._waiting:
            holding = self._waiting.popleft()
            if self._on_exit is None:
                continue
            assert holding.cause is not None
            try:
                self._on_exit(holding.key, holding.value, holding.cause)
            except (KeyboardInterrupt, SystemExit) as error:
                stop = stop or error
            except BaseException as error:
                self._listener_errors += 1
                report = types.SimpleNamespace(
                    exc_type=type(error), exc_value=error, exc_traceback=error.__traceback__, err_msg=None, object=None
                )
                sys.unraisablehook(cast("sys.UnraisableHookArgs", report))
        self._is_delivering = False
        if stop is not None:
            raise stop
