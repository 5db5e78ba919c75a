"""The cache of docs/cache.md in plain Python: obvious, slow, and the judge of the compiled one."""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, cast

from bridgecore import Cause, Outcome, Stats

WORD = 2**64 - 1
NO_TIME = 2**63 - 1
SWEPT_PER_SET = 64
MOVES_PER_CALL = 64
ARMS = (1, 20, 99)


def splitmix64(state: int) -> tuple[int, int]:
    """Return the next state and the next number."""
    state = (state + 0x9E3779B97F4A7C15) & WORD
    z = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & WORD
    return state, z ^ z >> 31


def siphash13(k0: int, k1: int, data: bytes) -> int:
    """SipHash-1-3, as the paper has it."""
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573

    def rotated(word: int, bits: int) -> int:
        return (word << bits | word >> 64 - bits) & WORD

    def sip_round() -> None:
        nonlocal v0, v1, v2, v3
        v0 = (v0 + v1) & WORD
        v1 = rotated(v1, 13) ^ v0
        v0 = rotated(v0, 32)
        v2 = (v2 + v3) & WORD
        v3 = rotated(v3, 16) ^ v2
        v0 = (v0 + v3) & WORD
        v3 = rotated(v3, 21) ^ v0
        v2 = (v2 + v1) & WORD
        v1 = rotated(v1, 17) ^ v2
        v2 = rotated(v2, 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        v3 ^= word
        sip_round()
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        sip_round()
    return v0 ^ v1 ^ v2 ^ v3


def part_bytes(part: Hashable) -> bytes:
    """Return what stands for a key, or for a part of one, in its hash."""
    if isinstance(part, str) and type(part).__hash__ is str.__hash__:
        widest = max(map(ord, part), default=0)
        encoding = "latin-1" if widest < 2**8 else "utf-16-le" if widest < 2**16 else "utf-32-le"
        return part.encode(encoding, "surrogatepass" if widest >= 2**8 else "strict")
    if isinstance(part, bytes) and type(part).__hash__ is bytes.__hash__:
        return part
    return (hash(part) & WORD).to_bytes(8, "little")


def key_bytes(key: Hashable) -> bytes:
    """Return the message that is hashed for a key."""
    if isinstance(key, tuple):
        parts = cast("tuple[Any, ...]", key)
        if len(parts) == 2 and getattr(type(parts), "__hash__", None) is tuple.__hash__:
            return pair_bytes(*parts)
    return part_bytes(key)


def pair_bytes(first: Hashable, second: Hashable) -> bytes:
    """Return the message that is hashed for a key of two parts."""
    a, b = part_bytes(first), part_bytes(second)
    return len(a).to_bytes(8, "little") + a + bytes(-len(a) % 8) + b


class Sketch:
    """Counters of how often a hash was used."""

    def __init__(self, max_cost: int) -> None:
        self.halvings = 0
        self.start(max_cost)

    def start(self, max_cost: int) -> None:
        blocks = max(max_cost // 4 + 1, 32)
        while blocks >= 64:
            blocks = (blocks + 1) // 2
        self.counters = [[0] * 128 for _ in range(blocks)]
        self.additions = 0

    def _places(self, h: int) -> tuple[list[int], list[int]]:
        block = self.counters[(h >> 32) * len(self.counters) >> 32]
        return block, [16 * (2 * row + (h >> 5 * row & 1)) + (h >> 5 * row + 1 & 15) for row in range(4)]

    def frequency(self, h: int) -> int:
        block, places = self._places(h)
        return min(block[place] for place in places)

    def use(self, h: int, entries: int) -> None:
        block, places = self._places(h)
        rose = False
        for place in places:
            if block[place] < 15:
                block[place] += 1
                rose = True
        if not rose:
            return
        self.additions += 1
        if self.additions >= 20 * max(entries, len(self.counters) // 2):
            odd = sum(count & 1 for block in self.counters for count in block)
            self.counters = [[count // 2 for count in block] for block in self.counters]
            self.additions = max(0, self.additions - odd // 4) // 2
            self.halvings += 1

    def fit(self, max_cost: int) -> None:
        if len(self.counters) > max(32, max_cost):
            self.start(max_cost)

    def grow(self, entries: int) -> None:
        if 2 * entries > 8 * len(self.counters):
            self.counters = [list(block) for block in self.counters for _ in range(2)]


class Policy:
    """The three lists, least recent first, over items that have a hash and a cost."""

    def __init__(self, sketch: Sketch, max_cost: int, arm: int, random: int) -> None:
        self.sketch = sketch
        self.random = random
        self.window: OrderedDict[Any, None] = OrderedDict()
        self.probation: OrderedDict[Any, None] = OrderedDict()
        self.protected: OrderedDict[Any, None] = OrderedDict()
        self.hashes: dict[Any, int] = {}
        self.costs: dict[Any, int] = {}
        self.sums: dict[int, int] = {id(entries): 0 for entries in self.lists()}
        self.warm_losers = 0
        self.resize(max_cost, arm)

    def lists(self) -> tuple[OrderedDict[Any, None], ...]:
        return self.window, self.probation, self.protected

    def resize(self, max_cost: int, arm: int) -> None:
        percent = ARMS[arm]
        self.max_cost = max_cost
        self.window_max = max(1, max_cost // 100 * percent + max_cost % 100 * percent // 100)
        self.protected_max = (max_cost - self.window_max) * 4 // 5

    def cost(self, *entries: OrderedDict[Any, None]) -> int:
        return sum(self.sums[id(one)] for one in entries or self.lists())

    def __len__(self) -> int:
        return len(self.costs)

    def where(self, item: Any) -> OrderedDict[Any, None] | None:
        return next((entries for entries in self.lists() if item in entries), None)

    def append(self, entries: OrderedDict[Any, None], item: Any, h: int, cost: int) -> None:
        entries[item] = None
        self.hashes[item] = h
        self.costs[item] = cost
        self.sums[id(entries)] += cost

    def remove(self, item: Any) -> None:
        entries = self.where(item)
        assert entries is not None
        del entries[item]
        del self.hashes[item]
        self.sums[id(entries)] -= self.costs.pop(item)

    def move(self, item: Any, entries: OrderedDict[Any, None]) -> None:
        h, cost = self.hashes[item], self.costs[item]
        self.remove(item)
        self.append(entries, item, h, cost)

    def use(self, item: Any) -> None:
        entries = self.where(item)
        assert entries is not None
        self.move(item, self.protected if entries is self.probation else entries)
        for _ in range(MOVES_PER_CALL):
            if self.cost(self.protected) <= self.protected_max or len(self.protected) <= 1:
                break
            self.move(next(iter(self.protected)), self.probation)

    def make_room(self, kept: Any = None) -> Iterator[Any]:
        """Yield what has to go, already removed."""
        moves = 0
        while self.cost(self.window) > self.window_max and len(self.window) > 1:
            candidate = next(iter(self.window))
            if self.cost() <= self.max_cost:
                if moves == MOVES_PER_CALL:
                    break
                moves += 1
                self.move(candidate, self.probation)
                continue
            victim = self._least_recent(kept, self.probation, self.protected)
            if victim is not None and self._admits(candidate, victim):
                self.move(candidate, self.probation)
            else:
                victim = candidate
            self.remove(victim)
            yield victim
        while self.cost() > self.max_cost:
            victim = self._least_recent(kept, self.probation, self.protected, self.window)
            self.remove(victim)
            yield victim

    def _least_recent(self, kept: Any, *lists: OrderedDict[Any, None]) -> Any:
        for entries in lists:
            first = next(iter(entries), None)
            if first is not None and first is not kept:
                return first
        return None

    def _admits(self, candidate: Any, victim: Any) -> bool:
        frequency = self.sketch.frequency(self.hashes[candidate])
        if frequency > self.sketch.frequency(self.hashes[victim]):
            return True
        if frequency < 6:
            return False
        self.random, number = splitmix64(self.random)
        self.warm_losers += number % 128 == 0
        return number % 128 == 0


class Shadow:
    """A policy over the hashes of a sample."""

    def __init__(self, sketch: Sketch, max_cost: int, arm: int) -> None:
        self.policy = Policy(sketch, max_cost, arm, 0)
        self.hits = 0

    def use(self, h: int, cost: int) -> None:
        policy = self.policy
        entries = policy.where(h)
        if entries is not None:
            self.hits += 1
        if cost > policy.max_cost:
            if entries is not None:
                policy.remove(h)
            return
        if entries is None:
            policy.append(policy.window, h, h, cost)
        else:
            if policy.costs[h] != cost:
                policy.remove(h)
                policy.append(entries, h, h, cost)
            policy.use(h)
        for _victim in policy.make_room(h):
            pass


class Chooser:
    """Which arm is in charge of the window."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.arm = 0
        self.changes = 0
        self.start(policy.max_cost)

    def start(self, entries: int) -> None:
        bits = 0
        while entries >> bits > 1024:
            bits += 1
        while entries >> bits >= 96 and bits < 5:
            bits += 1
        self.bits, self.entries = bits, entries
        self.uses = self.sampled = 0
        bound = max(1, self.policy.max_cost >> bits)
        self.shadows = [Shadow(self.policy.sketch, bound, arm) for arm in range(len(ARMS))]

    def evicts(self, entries: int) -> None:
        if entries > 2 * self.entries or 2 * entries < self.entries:
            self.start(entries)

    def use(self, h: int, cost: int) -> None:
        if (h >> 20) % 2**self.bits == 0:
            self.sampled += 1
            for shadow in self.shadows:
                shadow.use(h, cost)
        self.uses += 1
        if self.uses < self.entries:
            return
        hits = [shadow.hits for shadow in self.shadows]
        best = self.arm
        for arm, count in enumerate(hits):
            if count > hits[best]:
                best = arm
        if hits[best] > hits[self.arm] + self.sampled // 200:
            self.arm = best
            self.changes += 1
            self.policy.resize(self.policy.max_cost, best)
        for shadow in self.shadows:
            shadow.hits = shadow.hits * 9 // 10
        self.sampled = self.sampled * 9 // 10
        self.uses = 0


class Entry:
    """A value that entered."""

    def __init__(self, key: Hashable, value: object, cost: int, h: int) -> None:
        self.key, self.value, self.cost, self.hash = key, value, cost, h
        self.timer: tuple[int, int] | None = None  # the tick of its deadline, and when that was set
        self.deadline: float = math.inf  # ns
        self.leases = 0
        self.cause: Cause | None = None
        self.is_live = True


class ReferenceLease:
    """A lease, as `bridgecore.Lease`."""

    def __init__(self, cache: "ReferenceCache", entry: Entry, outcome: Outcome | None = None) -> None:
        self.cache, self.entry, self.outcome = cache, entry, outcome
        self.is_released = False
        entry.leases += 1

    @property
    def value(self) -> Any:
        if self.is_released:
            raise RuntimeError("released")
        return self.entry.value

    @property
    def is_live(self) -> bool:
        return not self.is_released and self.entry.is_live

    def release(self) -> None:
        if not self.is_released:
            self.is_released = True
            self.entry.leases -= 1
            if not self.entry.is_live and self.entry.leases == 0:
                self.cache.exit(self.entry)


class ReferenceCache:
    """The cache, as `bridgecore.Cache`; its clock and its seed have to be given."""

    def __init__(
        self,
        max_cost: int,
        *,
        ttl: float | None = None,
        on_exit: Callable[[Any, Any, Cause], object] | None = None,
        clock: Callable[[], float],
        seed: int,
    ) -> None:
        state, self.k0 = splitmix64(seed & WORD)
        state, self.k1 = splitmix64(state)
        # The third output is where the random numbers of the policy start.
        _, start = splitmix64(state)
        self.sketch = Sketch(max_cost)
        self.policy = Policy(self.sketch, max_cost, 0, start)
        self.chooser = Chooser(self.policy)
        self.entries: dict[Hashable, Entry] = {}
        self.pinned: OrderedDict[Entry, None] = OrderedDict()
        self.retired: set[Entry] = set()
        self.timers: list[tuple[tuple[int, int], int, Entry]] = []
        self.deadlines = 0
        self.ttl, self.on_exit, self.clock = ttl, on_exit, clock
        self.time = 0
        self.sequence = 0
        self.generation = 0
        self.hash_of: dict[bytes, int] = {}
        self.reset_stats()

    # Time

    def _read_clock(self) -> None:
        self.time = max(self.time, min(max(int(self.clock() * 1e9), 0), NO_TIME))

    def _ttl(self, ttl: float | None) -> int:
        """Return ns, or 0 for none."""
        seconds = self.ttl if ttl is None else ttl
        if seconds is None or math.isinf(seconds):
            return 0
        return NO_TIME if seconds * 1e9 >= 9.2e18 else max(1, int(seconds * 1e9))

    def _set_deadline(self, entry: Entry, ttl: int) -> None:
        self._drop_deadline(entry)
        if ttl and ttl < NO_TIME - self.time:
            self.sequence += 1
            entry.deadline = self.time + ttl
            entry.timer = (self.time + ttl >> 30, self.sequence)
            self.deadlines += 1
            heapq.heappush(self.timers, (entry.timer, self.sequence, entry))

    def _drop_deadline(self, entry: Entry) -> None:
        if entry.timer is not None:
            entry.timer = None
            entry.deadline = math.inf
            self.deadlines -= 1

    def _sweep(self, limit: int) -> int:
        swept = 0
        while self.timers and swept < limit:
            timer, _, entry = self.timers[0]
            if entry.timer != timer:
                heapq.heappop(self.timers)
            elif timer[0] < self.time >> 30:
                self._leave(entry, Cause.EXPIRED)
                swept += 1
            else:
                break
        return swept

    def first_sweep(self) -> int | None:
        """Return when the next sweep has work, in ns."""
        ticks = [entry.timer[0] for entry in self.entries.values() if entry.timer is not None]
        return (min(ticks) + 1) << 30 if ticks else None

    # Leaving

    def exit(self, entry: Entry) -> None:
        """Deliver the exit of an entry that nothing holds."""
        self.retired.discard(entry)
        assert entry.cause is not None
        self.exits[entry.cause] += 1
        if self.on_exit is not None:
            self.on_exit(entry.key, entry.value, entry.cause)

    def _retire(self, entry: Entry, cause: Cause) -> None:
        entry.is_live = False
        entry.cause = cause
        if entry.leases:
            self.retired.add(entry)
        else:
            self.exit(entry)

    def _leave(self, entry: Entry, cause: Cause) -> None:
        del self.entries[entry.key]
        self._displace(entry)
        self._drop_deadline(entry)
        self._retire(entry, cause)

    def _displace(self, entry: Entry) -> None:
        if entry in self.pinned:
            del self.pinned[entry]
        elif self.policy.where(entry) is not None:
            self.policy.remove(entry)

    def _make_room(self, kept: Entry | None = None) -> None:
        for victim in self.policy.make_room(kept):
            self.chooser.evicts(len(self.policy) + 1)
            self._leave(victim, Cause.EVICTED)

    # Finding

    def hash_key(self, key: Hashable) -> int:
        message = key_bytes(key)
        if message not in self.hash_of:
            self.hash_of[message] = siphash13(self.k0, self.k1, message)
        return self.hash_of[message]

    def _find(self, key: Hashable) -> Entry | None:
        if self.deadlines:
            self._read_clock()
        entry = self.entries.get(key)
        if entry is not None and entry.deadline <= self.time:
            self._leave(entry, Cause.EXPIRED)
            return None
        return entry

    def _learn(self, entry: Entry) -> None:
        self.sketch.use(entry.hash, len(self.policy))
        self.chooser.use(entry.hash, entry.cost)

    def _use(self, entry: Entry) -> None:
        if entry.cost:
            self._learn(entry)
            self.policy.use(entry)

    # The API

    def get(self, key: Hashable, default: Any = None, /) -> Any:
        entry = self._find(key)
        if entry is None:
            self.misses += 1
            return default
        self.hits += 1
        self._use(entry)
        return entry.value

    def get2(self, a: Hashable, b: Hashable, default: Any = None, /) -> Any:
        return self.get((a, b), default)

    def acquire(self, key: Hashable) -> ReferenceLease | None:
        missing = object()
        if self.get(key, missing) is missing:
            return None
        return ReferenceLease(self, self.entries[key])

    def acquire2(self, a: Hashable, b: Hashable) -> ReferenceLease | None:
        return self.acquire((a, b))

    def set(
        self,
        key: Hashable,
        value: object,
        cost: int = 1,
        ttl: float | None = None,
        generation: int | None = None,
    ) -> Outcome:
        return self._set(key, value, cost, ttl, generation)[0]

    def set2(self, a: Hashable, b: Hashable, value: object, *rest: Any) -> Outcome:
        return self.set((a, b), value, *rest)

    def set_and_acquire(self, key: Hashable, value: object, *rest: Any) -> ReferenceLease:
        leases: list[ReferenceLease] = []
        defaults: list[Any] = [1, None, None]
        cost, ttl, generation = [*rest, *defaults[len(rest) :]]
        self._set(key, value, cost, ttl, generation, leases)
        return leases[0]

    def _set(
        self,
        key: Hashable,
        value: object,
        cost: int = 1,
        ttl: float | None = None,
        generation: int | None = None,
        leases: list[ReferenceLease] | None = None,
    ) -> tuple[Outcome, Entry]:
        if generation is not None and generation > self.generation:
            raise ValueError("generation")
        ttl_ns = self._ttl(ttl)
        if ttl_ns or self.deadlines:
            self._read_clock()
        self._sweep(SWEPT_PER_SET)
        old = self.entries.get(key)
        if old is not None and old.deadline <= self.time:
            self._leave(old, Cause.EXPIRED)
            old = None
        is_same = old is not None and old.value is value
        entry = old if old is not None and is_same else Entry(key, value, cost, self.hash_key(key))
        if generation is not None and generation < self.generation:
            self._lease(entry, Outcome.STALE, leases)
            if not is_same:
                self._retire(entry, Cause.STALE)
            return Outcome.STALE, entry
        if cost > self.policy.max_cost:
            self._lease(entry, Outcome.REJECTED, leases)
            if is_same:
                self._leave(entry, Cause.REJECTED)
            else:
                if old is not None:
                    self._leave(old, Cause.REPLACED)
                self._retire(entry, Cause.REJECTED)
            return Outcome.REJECTED, entry
        self._put(entry, old, cost)
        self._set_deadline(entry, ttl_ns)
        outcome = Outcome.ADDED if old is None else Outcome.UPDATED
        self._lease(entry, outcome, leases)
        self._make_room(entry)
        if old is None:
            self.added += 1
        else:
            self.updated += 1
        return outcome, entry

    def _lease(self, entry: Entry, outcome: Outcome, leases: list[ReferenceLease] | None) -> None:
        if leases is not None:
            leases.append(ReferenceLease(self, entry, outcome))

    def _put(self, entry: Entry, old: Entry | None, cost: int) -> None:
        place = self.policy.where(old) if old is not None else None
        if old is entry:
            self._displace(entry)
        elif old is not None:
            self._leave(old, Cause.REPLACED)
        entry.cost = cost
        self.entries[entry.key] = entry
        if cost == 0:
            self.pinned[entry] = None
        elif place is None:
            self._learn(entry)
            self.policy.append(self.policy.window, entry, entry.hash, cost)
            self.sketch.grow(len(self.policy))
        else:
            self.policy.append(place, entry, entry.hash, cost)
            self._use(entry)

    def touch(self, key: Hashable, ttl: float | None = None) -> bool:
        ttl_ns = self._ttl(ttl)
        if ttl_ns or self.deadlines:
            self._read_clock()
        entry = self._find(key)
        if entry is None:
            return False
        self._set_deadline(entry, ttl_ns)
        return True

    def delete(self, key: Hashable) -> bool:
        entry = self._find(key)
        if entry is None:
            return False
        self._leave(entry, Cause.DELETED)
        return True

    def delete2(self, a: Hashable, b: Hashable) -> bool:
        return self.delete((a, b))

    def clear(self) -> int:
        self.generation += 1
        self._leave_all(Cause.CLEARED)
        return self.generation

    def close(self) -> None:
        self._leave_all(Cause.CLOSED)

    def _leave_all(self, cause: Cause) -> None:
        for entries in (*self.policy.lists(), self.pinned):
            for entry in list(entries):
                self._leave(entry, cause)

    def expire(self, limit: int = 1000) -> int:
        if self.deadlines:
            self._read_clock()
        return self._sweep(limit)

    @property
    def max_cost(self) -> int:
        return self.policy.max_cost

    @max_cost.setter
    def max_cost(self, max_cost: int) -> None:
        self.policy.resize(max_cost, self.chooser.arm)
        self.sketch.fit(max_cost)
        self.chooser.start(max_cost)
        self._make_room()

    @property
    def cost(self) -> int:
        return self.policy.cost()

    def items(self) -> list[tuple[Hashable, Any]]:
        if self.deadlines:
            self._read_clock()
        return [(entry.key, entry.value) for entry in self.entries.values() if entry.deadline > self.time]

    def __contains__(self, key: Hashable) -> bool:
        if self.deadlines:
            self._read_clock()
        entry = self.entries.get(key)
        return entry is not None and entry.deadline > self.time

    def __len__(self) -> int:
        return len(self.entries)

    def reset_stats(self) -> None:
        self.hits = self.misses = self.added = self.updated = 0
        self.exits = dict.fromkeys(Cause, 0)

    def stats(self) -> Stats:
        leases = sum(entry.leases for entry in (*self.entries.values(), *self.retired))
        return Stats(
            hits=self.hits,
            misses=self.misses,
            added=self.added,
            updated=self.updated,
            exits=dict(self.exits),
            entries=len(self.entries),
            pinned=len(self.pinned),
            cost=self.cost,
            max_cost=self.max_cost,
            window_cost=self.policy.cost(self.policy.window),
            leases=leases,
            retired=len(self.retired),
            lost_leases=0,
            listener_errors=0,
        )

    def snapshot(self) -> dict[str, Any]:
        """Return what `Cache._snapshot` does."""
        return {
            "window": [entry.key for entry in self.policy.window],
            "probation": [entry.key for entry in self.policy.probation],
            "protected": [entry.key for entry in self.policy.protected],
            "pinned": {entry.key for entry in self.pinned},
            "window_max": self.policy.window_max,
            "additions": self.sketch.additions,
            "frequencies": {key: self.sketch.frequency(entry.hash) for key, entry in self.entries.items()},
        }
