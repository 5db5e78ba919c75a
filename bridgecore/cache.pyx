"""A cache with adaptive W-TinyLFU admission, costs, expiry, leases and an exit for every value."""

# docs/cache.md is the contract and the algorithm. What does not touch Python stands in entries.pxd and the files that
# it names; this file adds keys and values, in a list that the collector of cycles can see, and calls the listener.
#
# The GIL is the lock. A method runs foreign code in two places only: before its first change (hashes, comparisons,
# the clock, conversions, allocations of what the collector tracks), after which it looks again; and after its last
# change, in `_deliver`. In between no reference is given up that could be the last one.

import enum
from collections import namedtuple
from os import register_at_fork, urandom
from types import GenericAlias

cimport cython
from cpython.exc cimport PyErr_SetObject, PyErr_WarnEx, PyErr_WriteUnraisable
from cpython.list cimport PyList_GET_ITEM
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from bridgecore.arguments cimport (
    NANOSECONDS, integer, read_function, read_max_cost, read_natural, read_time, read_ttl
)
from bridgecore.audit cimport audit_entries, audit_lists, audit_sketch, audit_table, audit_wheel
from bridgecore.clock cimport coarse_ns, now_ns
from bridgecore.entries cimport (
    CAUSES, CLEARED, CLOSED, DELETED, EXPIRED, FREE, LIVE, REJECTED, REPLACED, STALE,
    Entries, entries_free, entries_grow, entries_init, entries_leave_all, entries_make_room, entries_resize,
    entries_sweep, entries_time, entry_free, entry_is_over, entry_lease, entry_leave, entry_make, entry_put,
    entry_release, entry_retire, entry_set_ttl, entry_use, has_deadlines, has_room, is_live, next_capacity
)
from bridgecore.keys cimport holds_parts, is_equal, key_hash, pair_hash, same_pair, same_text
from bridgecore.memo cimport Group, address_hash, memo_group, memo_matches, memo_next, memo_remember
from bridgecore.policy cimport LISTS, PINNED, PROBATION, PROTECTED, WINDOW, next_random, policy_cost
from bridgecore.siphash cimport SipKey, load
from bridgecore.sketch cimport sketch_frequency
from bridgecore.table cimport cell_after, cell_home, table_reserve
from bridgecore.wheel cimport wheel_deadline

cdef enum:
    SWEPT_PER_SET = 64
    ATTEMPTS = 16       # searches in a row that a key's `__eq__` may upset

cdef extern from *:
    """
    #ifdef CYTHON_TRACE_NOGIL
    #define BRIDGECORE_DEBUG CYTHON_TRACE_NOGIL
    #else
    #define BRIDGECORE_DEBUG 0
    #endif
    """
    bint BRIDGECORE_DEBUG

IS_DEBUG = bool(BRIDGECORE_DEBUG)


class Closed(RuntimeError):
    """The cache was closed."""


class Outcome(enum.Enum):
    """What `Cache.set` did with the value."""

    ADDED = "added"
    UPDATED = "updated"
    REJECTED = "rejected"
    STALE = "stale"


class Cause(enum.Enum):
    """Why a value left; in the order of the numbers in entries.pxd."""

    REPLACED = "replaced"
    DELETED = "deleted"
    CLEARED = "cleared"
    EXPIRED = "expired"
    EVICTED = "evicted"
    REJECTED = "rejected"
    STALE = "stale"
    CLOSED = "closed"


Stats = namedtuple(
    "Stats",
    "hits misses added updated exits entries pinned cost max_cost window_cost leases retired "
    "lost_leases listener_errors",
)

# Held here and not looked up in the module, whose names are gone when the interpreter ends.
cdef tuple causes = tuple(Cause)
cdef object added = Outcome.ADDED
cdef object updated = Outcome.UPDATED
cdef object rejected = Outcome.REJECTED
cdef object stale = Outcome.STALE
cdef object one = 1

# A thread that delivers does not live on in a forked child, so its mark must not count there.
cdef uint64_t forks = 1


def _count_fork():
    global forks
    forks += 1


register_at_fork(after_in_child=_count_fork)


cdef struct Counters:
    uint64_t hits
    uint64_t misses
    uint64_t added
    uint64_t updated
    uint64_t lost_leases
    uint64_t listener_errors


@cython.final
cdef class Cache:
    """Keeps the most useful values whose costs fit below *max_cost*; docs/cache.md is the whole contract.

    *ttl* is in seconds. *on_exit(key, value, cause)* is called once for every value that entered, after it left and its
    last lease was released. *clock* returns seconds like `time.monotonic`, which it is by default. With a *seed* all
    decisions can be repeated. Every operation costs O(1), not counting the exits that it causes. Safe between threads.
    Raises ValueError or TypeError for arguments out of their range.
    """

    cdef:
        Entries entries
        Counters counters
        SipKey sip_key
        int64_t default_ttl     # ns, or 0 for none
        uint64_t delivering     # the number of forks when a thread began to deliver, or 0
        unsigned long deliverer     # that thread
        list held               # key and value of each entry in turn: beside each other, they share a cache line
        object on_exit
        object clock
        readonly uint64_t generation
        bint is_open            # not before it is whole: `__del__` runs even if `__cinit__` raises

    def __cinit__(self, max_cost, *, ttl=None, on_exit=None, clock=None, seed=None):
        cdef uint64_t bound = read_max_cost(max_cost)
        self.default_ttl = 0 if ttl is None else read_ttl(ttl)
        self.on_exit = read_function("on_exit", on_exit)
        self.clock = read_function("clock", clock)
        if not entries_init(&self.entries, bound, self._seed(seed)):
            raise MemoryError
        self.held = [None] * (2 * self.entries.capacity)
        self.is_open = True

    def __dealloc__(self):
        entries_free(&self.entries)

    def __del__(self):
        # Even without a listener: in a cycle, code may still call this object after the collector took its list.
        if self.is_open:
            self.close()

    # Reading

    def get(self, key, default=None, /):
        """Return the value of *key*, or *default*."""
        cdef uint32_t number = self._look_up(key)
        return self._hit(number) if number else self._miss(default)

    def get2(self, a, b, default=None, /):
        """Return the value of the key `(a, b)`, or *default*."""
        cdef uint32_t number = self._look_up2(a, b)
        return self._hit(number) if number else self._miss(default)

    def acquire(self, key):
        """Return a lease on the value of *key*, or None; the look-up and the lease are one step."""
        cdef uint32_t number = self._look_up(key)
        return self._lease(number) if number else self._miss(None)

    def acquire2(self, a, b):
        """Return a lease on the value of the key `(a, b)`, or None."""
        cdef uint32_t number = self._look_up2(a, b)
        return self._lease(number) if number else self._miss(None)

    def __contains__(self, key):
        cdef uint32_t number = self._find_in_time(key_hash(self.sip_key, key), key, None, False)
        return number != 0 and not self._is_over(number)

    def __len__(self):
        return self.entries.table.count

    def __iter__(self):
        return iter([key for key, _value in self.items()])

    def items(self):
        """Return a snapshot of keys and values, in no particular order; counts no hits."""
        cdef:
            Py_ssize_t i = 0
            uint32_t number
            list found
        self._read_clock_for_deadlines()
        while True:
            # Making what the collector tracks may run foreign code: make the room, then look, then make the pairs.
            found = [None] * (2 * self.entries.table.count)
            self._check_open()
            if len(found) == <Py_ssize_t> (2 * self.entries.table.count):
                break
        for number in range(<uint32_t> LISTS, self.entries.capacity):
            if is_live(&self.entries, number) and not self._is_over(number):
                found[i] = self._key(number)
                found[i + 1] = self._value(number)
                i += 2
        return list(zip(found[:i:2], found[1:i:2], strict=True))

    # Changing

    def set(self, key, value, cost=1, ttl=None, generation=None):
        """Make *value* the value of *key*, visible at once; return what became of it.

        Raises ValueError for a cost below 0, a TTL that is not above 0, or a generation that has not begun.
        """
        cdef uint32_t number
        outcome = self._set(key, value, cost, ttl, generation, False, &number)
        self._deliver()
        return outcome

    def set2(self, a, b, value, cost=1, ttl=None, generation=None):
        """Like `set`, for the key `(a, b)`."""
        return self.set((a, b), value, cost, ttl, generation)

    def set_and_acquire(self, key, value, cost=1, ttl=None, generation=None):
        """Like `set`, and lease the value in the same step; it is leased even if the cache refuses it."""
        cdef:
            Lease lease = Lease.__new__(Lease)
            uint32_t number
        lease.outcome = self._set(key, value, cost, ttl, generation, True, &number)
        lease.cache = self
        lease.held = value
        lease.number = number
        try:
            self._deliver()
        except BaseException:
            lease.release()  # the caller will not get it
            raise
        return lease

    def set_and_acquire2(self, a, b, value, cost=1, ttl=None, generation=None):
        """Like `set_and_acquire`, for the key `(a, b)`."""
        return self.set_and_acquire((a, b), value, cost, ttl, generation)

    def touch(self, key, ttl=None):
        """Start the time to live of *key* anew; return whether it was there."""
        cdef:
            int64_t ttl_ns = self.default_ttl if ttl is None else read_ttl(ttl)
            uint64_t hash = key_hash(self.sip_key, key)
            uint32_t number
        self._check_open()
        if ttl_ns or has_deadlines(&self.entries):
            self._read_clock()
        number = self._find(hash, key, None, False)
        if number == 0 or self._leave_if_over(number):
            self._deliver()
            return False
        if ttl_ns and not entries_time(&self.entries):
            raise MemoryError
        entry_set_ttl(&self.entries, number, ttl_ns)
        return True

    def delete(self, key):
        """Drop *key*; return whether it was there."""
        return self._delete(self._find_in_time(key_hash(self.sip_key, key), key, None, False))

    def delete2(self, a, b):
        """Drop the key `(a, b)`; return whether it was there."""
        return self._delete(self._find_in_time(pair_hash(self.sip_key, a, b), a, b, True))

    def clear(self):
        """Drop everything in one step; return the number of the generation that begins."""
        cdef uint64_t generation
        self._check_open()
        self.generation += 1
        generation = self.generation
        entries_leave_all(&self.entries, CLEARED)
        self._deliver()
        return generation

    def close(self):
        """Drop everything and refuse all later use; leases that are out stay good. Closing twice is allowed."""
        if self.is_open:
            self.is_open = False
            entries_leave_all(&self.entries, CLOSED)
        self._deliver()

    @property
    def is_closed(self):
        """Whether `close` was called."""
        return not self.is_open

    def expire(self, limit=1000):
        """Drop entries whose time is over, at most *limit* of them; return how many."""
        cdef uint64_t most = read_natural("limit", limit)
        cdef uint32_t swept
        self._check_open()
        self._read_clock_for_deadlines(now_too=True)
        self._check_open()
        swept = entries_sweep(&self.entries, min(most, <uint64_t> 0xFFFFFFFF))
        self._deliver()
        return swept

    def next_deadline(self):
        """Return when `expire` may have work, in seconds on the cache's clock; None if nothing expires."""
        cdef int64_t deadline = wheel_deadline(self.entries.wheel) if self.entries.wheel != NULL else -1
        return deadline / <double> NANOSECONDS if deadline >= 0 else None

    @property
    def max_cost(self):
        """The bound on the sum of all costs; lowering it evicts at once."""
        return self.entries.policy.max_cost

    @max_cost.setter
    def max_cost(self, max_cost):
        cdef uint64_t bound = read_max_cost(max_cost)
        self._check_open()
        entries_resize(&self.entries, bound)
        self._deliver()

    # Looking on

    @property
    def cost(self):
        """The sum of the costs of all entries."""
        return policy_cost(&self.entries.policy)

    def stats(self):
        """Return one consistent snapshot of counters and sizes."""
        cdef:
            Counters counters = self.counters
            uint64_t[8] exits = self.entries.exits
            uint64_t[4] costs = self.entries.policy.costs
            uint64_t entries = self.entries.table.count
            uint64_t pinned = self.entries.policy.counts[PINNED]
            uint64_t max_cost = self.entries.policy.max_cost
            uint64_t leases = self.entries.leases
            uint64_t retired = self.entries.retired
            int cause
        return Stats(
            counters.hits, counters.misses, counters.added, counters.updated,
            {causes[cause]: exits[cause] for cause in range(CAUSES)},
            entries, pinned, costs[WINDOW] + costs[PROBATION] + costs[PROTECTED], max_cost, costs[WINDOW],
            leases, retired, counters.lost_leases, counters.listener_errors,
        )

    def reset_stats(self):
        """Set the counters to zero."""
        memset(&self.counters, 0, sizeof(Counters))
        memset(self.entries.exits, 0, sizeof(self.entries.exits))

    def audit(self):
        """Raise AssertionError if the structure breaks one of its rules; O(n)."""
        cdef uint32_t number
        audit_lists(&self.entries)
        audit_sketch(&self.entries)
        audit_entries(&self.entries)
        audit_table(&self.entries)
        audit_wheel(&self.entries)
        for number in range(<uint32_t> LISTS, self.entries.capacity):
            if self.entries.nodes[number].state == FREE:
                assert self._key(number) is None, f"free entry {number} holds a key"
                assert self._value(number) is None, f"free entry {number} holds a value"

    def _snapshot(self):
        """Return what the policy holds and knows, for a comparison with the reference."""
        cdef uint32_t number
        return {
            "window": self._list(WINDOW),
            "probation": self._list(PROBATION),
            "protected": self._list(PROTECTED),
            "pinned": set(self._list(PINNED)),
            "window_max": self.entries.policy.window_max,
            "additions": self.entries.sketch.additions,
            "frequencies": {
                self._key(number): sketch_frequency(&self.entries.sketch, self.entries.nodes[number].hash)
                for number in range(<uint32_t> LISTS, self.entries.capacity)
                if is_live(&self.entries, number)
            },
        }

    cdef list _list(self, uint32_t queue):
        cdef list found = []
        cdef uint32_t number = self.entries.nodes[queue].next
        while number != queue:
            found.append(self._key(number))
            number = self.entries.nodes[number].next
        return found

    @classmethod
    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    # What an entry holds

    cdef inline object _key(self, uint32_t number):
        return self.held[2 * <Py_ssize_t> number]

    cdef inline object _value(self, uint32_t number):
        return self.held[2 * <Py_ssize_t> number + 1]

    cdef inline PyObject* _live_key(self, uint32_t number) noexcept:
        """Return the key, borrowed, of an entry that is live: so the collector did not take the list."""
        return PyList_GET_ITEM(self.held, 2 * <Py_ssize_t> number)

    cdef inline int _hold(self, uint32_t number, key, value) except -1:
        self.held[2 * <Py_ssize_t> number] = key
        self.held[2 * <Py_ssize_t> number + 1] = value
        return 0

    # Finding

    cdef inline int _check_open(self) except -1:
        if not self.is_open:
            raise Closed("the cache is closed")
        return 0

    cdef inline uint32_t _look_up(self, key) except? 0xFFFFFFFF:
        """Return the number of a key that has not expired, or 0."""
        cdef:
            uint64_t address = address_hash(<PyObject*> key, NULL)
            Group* group = memo_group(&self.entries.memo, address)
            uint64_t matches = memo_matches(group, address)
            uint32_t number
        while matches:
            number = memo_next(group, &matches)
            if is_live(&self.entries, number) and self._live_key(number) == <PyObject*> key:
                return self._recall(number) if has_deadlines(&self.entries) else number
        return self._search(key)

    cdef inline uint32_t _look_up2(self, a, b) except? 0xFFFFFFFF:
        """Like `_look_up`, for the key `(a, b)`."""
        cdef:
            uint64_t address = address_hash(<PyObject*> a, <PyObject*> b)
            Group* group = memo_group(&self.entries.memo, address)
            uint64_t matches = memo_matches(group, address)
            uint32_t number
        while matches:
            number = memo_next(group, &matches)
            if is_live(&self.entries, number) and holds_parts(self._live_key(number), a, b):
                return self._recall(number) if has_deadlines(&self.entries) else number
        return self._search2(a, b)

    cdef uint32_t _search(self, key) except? 0xFFFFFFFF:
        cdef uint32_t number = self._find_live(key_hash(self.sip_key, key), key, None, False)
        if number and PyUnicode_CheckExact(key) and self._live_key(number) == <PyObject*> key:
            memo_remember(&self.entries.memo, address_hash(<PyObject*> key, NULL), number)
        return number

    cdef uint32_t _search2(self, a, b) except? 0xFFFFFFFF:
        cdef uint32_t number = self._find_live(pair_hash(self.sip_key, a, b), a, b, True)
        if (
            number and PyUnicode_CheckExact(a) and PyUnicode_CheckExact(b)
            and holds_parts(self._live_key(number), a, b)
        ):
            memo_remember(&self.entries.memo, address_hash(<PyObject*> a, <PyObject*> b), number)
        return number

    cdef uint32_t _recall(self, uint32_t number) except? 0xFFFFFFFF:
        """Return a live entry that was found without a search, or 0 if its time is over."""
        if self.clock is not None:  # reading it runs foreign code, after which the entry may be another's
            return self._find_live(self.entries.nodes[number].hash, self._key(number), None, False)
        if self._leave_if_over(number):
            self._deliver()
            return 0
        return number

    cdef uint32_t _find_live(self, uint64_t hash, key, other, bint pair) except? 0xFFFFFFFF:
        """Like `_find_in_time`; an entry whose time is over leaves and is not found."""
        cdef uint32_t number = self._find_in_time(hash, key, other, pair)
        if number and self._leave_if_over(number):
            self._deliver()
            return 0
        return number

    cdef uint32_t _find_in_time(self, uint64_t hash, key, other, bint pair) except? 0xFFFFFFFF:
        """Like `_find`, with the clock read before."""
        self._read_clock_for_deadlines()
        return self._find(hash, key, other, pair)

    cdef uint32_t _find(self, uint64_t hash, key, other, bint pair) except? 0xFFFFFFFF:
        """Return the number of a key, or 0; *other* is the second part of a pair."""
        cdef:
            uint64_t place
            uint64_t cell
            uint64_t changes
            uint32_t number
            int same
            int _attempt
        for _attempt in range(ATTEMPTS):
            self._check_open()
            changes = self.entries.changes
            place = cell_home(&self.entries.table, hash)
            while True:
                cell = self.entries.table.cells[place]
                if cell == 0:
                    return 0
                number = <uint32_t> cell
                if cell >> 32 == hash >> 32 and self.entries.nodes[number].hash == hash:
                    stored = self._key(number)
                    same = same_pair(stored, key, other) if pair else same_text(stored, key)
                    if same == 2:
                        same = is_equal(stored, (key, other) if pair else key)
                        if changes != self.entries.changes or not self.is_open:
                            break
                    if same:
                        return number
                place = cell_after(&self.entries.table, place)
        raise RuntimeError(f"{type(key).__name__}.__eq__ changed the cache {ATTEMPTS} times in a row")

    cdef inline bint _is_over(self, uint32_t number) noexcept:
        """Whether an entry's time is over, by the coarse clock that is good enough to refuse a value."""
        if self.entries.wheel == NULL or self.entries.timers[number].deadline == 0:
            return False
        if self.clock is None:
            return entry_is_over(&self.entries, number, max(self.entries.time, coarse_ns()))
        return entry_is_over(&self.entries, number, self.entries.time)

    cdef inline bint _leave_if_over(self, uint32_t number) noexcept:
        if not self._is_over(number):
            return False
        entry_leave(&self.entries, number, EXPIRED)
        return True

    cdef object _miss(self, default):
        self.counters.misses += 1
        return default

    cdef inline object _hit(self, uint32_t number):
        self.counters.hits += 1
        entry_use(&self.entries, number)
        return <object> PyList_GET_ITEM(self.held, 2 * <Py_ssize_t> number + 1)

    cdef Lease _lease(self, uint32_t number):
        cdef Lease lease
        value = self._hit(number)
        entry_lease(&self.entries, number)  # before its object is made, which may run foreign code
        try:
            lease = Lease.__new__(Lease)
        except BaseException:
            entry_release(&self.entries, number)
            raise
        lease.cache = self
        lease.held = value
        lease.number = number
        return lease

    # Changing, inside

    cdef object _set(self, key, value, cost, ttl, generation, bint lease, uint32_t* result):
        cdef:
            uint64_t cost_number = 1 if cost is one else read_natural("cost", cost)
            int64_t ttl_ns = self.default_ttl if ttl is None else read_ttl(ttl)
            uint64_t made_in = 0 if generation is None else read_natural("generation", generation)
            uint64_t hash = key_hash(self.sip_key, key)
            uint32_t old
        self._check_open()
        if ttl_ns or has_deadlines(&self.entries):
            self._read_clock()
        while True:
            self._reserve(ttl_ns != 0)
            old = self._find(hash, key, None, False)
            if has_room(&self.entries):  # else a comparison took what was reserved
                break
        if generation is not None and made_in > self.generation:
            raise ValueError(f"generation {made_in} has not begun; the current one is {self.generation}")
        entries_sweep(&self.entries, SWEPT_PER_SET)
        if old and (not is_live(&self.entries, old) or self._leave_if_over(old)):
            old = 0
        if generation is not None and made_in < self.generation:
            result[0] = self._refuse(hash, key, value, old, STALE, lease)
            return stale
        if cost_number > self.entries.policy.max_cost:
            result[0] = self._refuse(hash, key, value, old, REJECTED, lease)
            return rejected
        result[0] = self._put(hash, key, value, cost_number, old)
        entry_set_ttl(&self.entries, result[0], ttl_ns)
        if lease:
            entry_lease(&self.entries, result[0])
        entries_make_room(&self.entries, result[0])
        if old:
            self.counters.updated += 1
            return updated
        self.counters.added += 1
        return added

    cdef uint32_t _put(self, uint64_t hash, key, value, uint64_t cost, uint32_t old):
        cdef bint is_same = old != 0 and self._value(old) is value
        cdef uint32_t number = entry_put(&self.entries, hash, cost, old, is_same)
        if not is_same:
            self._hold(number, key, value)
        return number

    cdef uint32_t _refuse(self, uint64_t hash, key, value, uint32_t old, int cause, bint lease):
        """Let a value that may not stay leave, but for one that is there already and only came too late."""
        cdef uint32_t number
        if old and self._value(old) is value:
            if lease:
                entry_lease(&self.entries, old)
            if cause == REJECTED:
                entry_leave(&self.entries, old, cause)
            return old
        if old and cause == REJECTED:
            entry_leave(&self.entries, old, REPLACED)
        number = entry_make(&self.entries, hash, 0)
        self._hold(number, key, value)
        if lease:
            entry_lease(&self.entries, number)
        entry_retire(&self.entries, number, cause)
        return number

    cdef bint _delete(self, uint32_t number) except -1:
        cdef bint was_there = number != 0 and not self._is_over(number)
        if number:
            entry_leave(&self.entries, number, DELETED if was_there else EXPIRED)
        self._deliver()
        return was_there

    cdef int _release(self, uint32_t number) except -1:
        entry_release(&self.entries, number)
        return self._deliver()

    # Leaving

    cdef inline int _deliver(self) except -1:
        if self.entries.leaving and not self._is_delivering():
            self._deliver_all()
        return 0

    cdef inline bint _is_delivering(self) noexcept:
        """Whether a thread of this process delivers; the one that forked lives on in the child."""
        return self.delivering != 0 and (self.delivering == forks or self.deliverer == PyThread_get_thread_ident())

    cdef int _deliver_all(self) except -1:
        """Hand what left to the listener, one after another; what leaves meanwhile is handed on by this loop too."""
        cdef uint32_t number
        interrupt = None
        self.delivering = forks
        self.deliverer = PyThread_get_thread_ident()
        try:
            while self.entries.leaving:
                number = self.entries.leaving
                self.entries.leaving = self.entries.nodes[number].next
                key = self._key(number)
                value = self._value(number)
                self._hold(number, None, None)
                entry_free(&self.entries, number)
                if self.on_exit is not None:
                    raised = self._notify(key, value, causes[self.entries.nodes[number].cause])
                    interrupt = raised if raised is not None else interrupt
                key = value = None  # destructors run here, where nothing is half done
        finally:
            self.delivering = 0
        if interrupt is not None:
            raise interrupt
        return 0

    cdef object _notify(self, key, value, cause):
        """Call the listener; return the interrupt that it raised, if it did."""
        try:
            self.on_exit(key, value, cause)
        except (KeyboardInterrupt, SystemExit) as error:
            self.counters.listener_errors += 1
            return error
        except BaseException as error:
            self.counters.listener_errors += 1
            PyErr_SetObject(type(error), error)
            PyErr_WriteUnraisable(self.on_exit)
        return None

    # Time and memory

    cdef int _read_clock(self) except -1:
        cdef int64_t now = now_ns() if self.clock is None else read_time(self.clock)
        self.entries.time = max(self.entries.time, now)
        return 0

    cdef inline int _read_clock_for_deadlines(self, bint now_too=False) except -1:
        """Read a clock that is a Python function, before the look at the table; the other one only if *now_too*."""
        if has_deadlines(&self.entries) and (now_too or self.clock is not None):
            self._check_open()
            self._read_clock()
        return 0

    cdef uint64_t _seed(self, seed) except? 0:
        """Set the key of the hashes; return where the random numbers begin."""
        cdef uint64_t state
        if seed is None:
            self.sip_key.k0 = load(urandom(8))
            self.sip_key.k1 = load(urandom(8))
            return load(urandom(8))
        state = integer("seed", seed) & 0xFFFFFFFFFFFFFFFFULL
        self.sip_key.k0 = next_random(&state)
        self.sip_key.k1 = next_random(&state)
        return next_random(&state)

    cdef int _reserve(self, bint with_deadline) except -1:
        """Make sure that one more entry can be made without asking for memory."""
        cdef uint64_t cells = self.entries.table.size
        if not self.entries.free:
            self._grow()
        if not table_reserve(&self.entries.table, self.entries.policy.max_cost):
            raise MemoryError
        if self.entries.table.size != cells:
            self.entries.changes += 1  # a search that is under way has to begin again
        if with_deadline and not entries_time(&self.entries):
            raise MemoryError
        return 0

    cdef int _grow(self) except -1:
        cdef:
            uint32_t capacity = self.entries.capacity
            uint64_t size = next_capacity(&self.entries)
            list room = [None] * <Py_ssize_t> (2 * (size - capacity))
        if self.entries.capacity != capacity:
            return 0  # making the list ran foreign code, which did it
        # From here on nothing is made that the collector tracks. A list longer than the arrays does no harm.
        self.held.extend(room)
        if not entries_grow(&self.entries, size):
            raise MemoryError
        return 0


@cython.final
cdef class Lease:
    """Keeps a value from leaving for as long as it is used; made by `acquire`, `set_and_acquire` and `share`."""

    cdef:
        Cache cache             # None once released
        object held
        uint32_t number
        readonly object outcome

    @property
    def value(self):
        """The leased value. Raises RuntimeError once the lease is released."""
        if self.cache is None:
            raise RuntimeError("the lease was released; its value may be gone")
        return self.held

    @property
    def is_live(self):
        """Whether the value is still in the cache."""
        return self.cache is not None and self.cache.entries.nodes[self.number].state == LIVE

    @property
    def is_released(self):
        """Whether the lease was released."""
        return self.cache is None

    def share(self):
        """Return another lease on the same value. Raises RuntimeError once this one is released."""
        cdef Lease lease = Lease.__new__(Lease)  # which may run foreign code: look afterwards
        lease.held = self.value
        lease.number = self.number
        lease.cache = self.cache
        entry_lease(&self.cache.entries, self.number)
        return lease

    def release(self):
        """Give the value back; a second time does nothing."""
        cdef Cache cache = self.cache
        if cache is None:
            return
        _value = self.held  # let go of only after the listener saw it
        self.cache = None
        self.held = None
        cache._release(self.number)

    def __enter__(self):
        return self.value

    def __exit__(self, kind, error, traceback):
        self.release()

    def __del__(self):
        if self.cache is None:
            return
        self.cache.counters.lost_leases += 1
        try:
            PyErr_WarnEx(ResourceWarning, b"a lease was collected unreleased", 1)
        finally:
            self.release()

    @classmethod
    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)
