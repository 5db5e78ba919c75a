"""The entries of a cache, without their keys and values: which there are, where they stand and how they leave.

An entry is a number into parallel arrays: the policy's nodes, the wheel's timers, and the cache's Python lists of
keys and values. It is FREE; LIVE, in the table and one list of the policy; RETIRED, kept by leases alone; or LEAVING,
in the queue of those that the listener has yet to see. Nothing here calls Python or gives up a reference, so a chain of
these calls is one step for every thread.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from bridgecore.chooser cimport FIRST_ARM, Chooser, chooser_fit, chooser_start, chooser_stop, chooser_use, share_of
from bridgecore.memo cimport Memo, memo_grow
from bridgecore.policy cimport (
    LISTS, PINNED, WINDOW, Node, Policy, policy_append, policy_count, policy_init, policy_remove, policy_resize,
    policy_use, policy_victim
)
from bridgecore.sketch cimport Sketch, sketch_age, sketch_fit, sketch_free, sketch_grow, sketch_init, sketch_use
from bridgecore.table cimport FIRST_CELLS, Table, table_add, table_free, table_init, table_remove
from bridgecore.wheel cimport HEADS_AT, Timer, Wheel, wheel_add, wheel_expired, wheel_init, wheel_remove

cdef enum:
    FREE
    LIVE
    RETIRED
    LEAVING

cdef enum:
    REPLACED
    DELETED
    CLEARED
    EXPIRED
    EVICTED
    REJECTED
    STALE
    CLOSED
    CAUSES

cdef enum:
    FIRST_CAPACITY = 64


cdef struct Entries:
    Policy policy
    Sketch sketch
    Chooser chooser
    Table table
    Memo memo
    Wheel* wheel            # made when the first entry with a deadline comes, like its timers
    Node* nodes
    Timer* timers
    uint32_t capacity       # of the arrays
    uint32_t free           # first of the free ones, linked by `next`
    uint32_t leaving        # first and last of those that leave, linked by `next`
    uint32_t last_leaving
    uint64_t leases
    uint64_t retired
    uint64_t changes        # of the table: what a comparison of keys may have upset
    int64_t time            # the latest that the clock has shown, ns
    uint64_t[8] exits       # by cause


# Memory

cdef inline bint entries_init(Entries* entries, uint64_t max_cost, uint64_t random) noexcept nogil:
    """Begin with nothing, in zeroed memory; return False without memory."""
    entries.chooser.arm = FIRST_ARM
    policy_resize(&entries.policy, max_cost, share_of(max_cost, FIRST_ARM))
    entries.policy.sketch = &entries.sketch
    entries.policy.random = random
    if not entries_grow(entries, next_capacity(entries)):
        return False
    policy_init(&entries.policy, entries.nodes)
    if not sketch_init(&entries.sketch, max_cost) or not table_init(&entries.table, FIRST_CELLS):
        return False
    chooser_start(&entries.chooser, &entries.policy, max_cost)
    return True


cdef inline void entries_free(Entries* entries) noexcept nogil:
    chooser_stop(&entries.chooser)
    sketch_free(&entries.sketch)
    table_free(&entries.table)
    free(entries.memo.groups)
    free(entries.wheel)
    free(entries.nodes)
    free(entries.timers)


cdef inline uint64_t next_capacity(Entries* entries) noexcept nogil:
    """Twice as much, or at once what *max_cost* entries of cost 1 need if that is near, and never more than that."""
    cdef uint64_t size = max(<uint64_t> FIRST_CAPACITY, <uint64_t> entries.capacity * 2)
    if entries.policy.max_cost < 2 * size:
        size = max(<uint64_t> entries.capacity, entries.policy.max_cost) + 16
    return size


cdef inline bint entries_grow(Entries* entries, uint64_t size) noexcept nogil:
    """Enlarge the arrays; return False, with everything as it was, without memory."""
    cdef:
        void* nodes
        void* timers
        uint32_t number
    if size <= entries.capacity:
        return True
    if size >= <uint32_t> HEADS_AT or not memo_grow(&entries.memo, size):
        return False
    nodes = realloc(entries.nodes, size * sizeof(Node))
    if nodes == NULL:
        return False
    entries.nodes = <Node*> nodes
    entries.policy.nodes = entries.nodes
    if entries.wheel != NULL:
        timers = realloc(entries.timers, size * sizeof(Timer))
        if timers == NULL:
            return False
        entries.timers = <Timer*> timers
        entries.wheel.timers = entries.timers
        memset(entries.timers + entries.capacity, 0, (size - entries.capacity) * sizeof(Timer))
    number = size
    while number > max(entries.capacity, <uint32_t> LISTS):
        number -= 1
        entry_free(entries, number)
    entries.capacity = size
    return True


cdef inline bint entries_time(Entries* entries) noexcept nogil:
    """Make the wheel, if there is none; return False without memory."""
    cdef Wheel* wheel
    cdef Timer* timers
    if entries.wheel != NULL:
        return True
    wheel = <Wheel*> calloc(1, sizeof(Wheel))
    timers = <Timer*> calloc(entries.capacity, sizeof(Timer))
    if wheel == NULL or timers == NULL:
        free(wheel)
        free(timers)
        return False
    wheel.timers = timers
    wheel_init(wheel, entries.time)
    entries.timers = timers
    entries.wheel = wheel
    return True


cdef inline bint has_room(Entries* entries) noexcept nogil:
    """Whether an entry can be made without asking for memory."""
    return entries.free != 0 and (entries.table.count + 1) * 10 <= entries.table.size * 7


cdef inline bint has_deadlines(Entries* entries) noexcept nogil:
    return entries.wheel != NULL and entries.wheel.count != 0


cdef inline void entries_resize(Entries* entries, uint64_t max_cost) noexcept nogil:
    policy_resize(&entries.policy, max_cost, share_of(max_cost, entries.chooser.arm))
    sketch_fit(&entries.sketch, max_cost)
    entries_forget_full(entries)
    chooser_start(&entries.chooser, &entries.policy, max_cost)
    entries_make_room(entries, 0)


# One entry

cdef inline bint is_live(Entries* entries, uint32_t number) noexcept nogil:
    return number != 0 and entries.nodes[number].state == LIVE


cdef inline void entry_free(Entries* entries, uint32_t number) noexcept nogil:
    entries.nodes[number].state = FREE
    entries.nodes[number].next = entries.free
    entries.free = number


cdef inline uint32_t entry_make(Entries* entries, uint64_t hash, uint64_t cost) noexcept nogil:
    """Take a free entry, which there must be; it is in no list, and not in the table."""
    cdef uint32_t number = entries.free
    cdef Node* node = &entries.nodes[number]
    entries.free = node.next
    node.hash = hash
    node.cost = cost
    node.queue = LISTS
    node.leases = 0
    node.state = LIVE
    node.full_in = 0
    return number


cdef inline uint32_t entry_put(
    Entries* entries, uint64_t hash, uint64_t cost, uint32_t old, bint is_same
) noexcept nogil:
    """Make an entry for a key, or anew in the place of its *old* one, which leaves unless it *is_same*; return it."""
    cdef uint32_t queue = entries.nodes[old].queue if old else LISTS
    cdef uint32_t number = old
    if is_same:
        policy_remove(&entries.policy, old)
        entries.nodes[old].cost = cost
    else:
        if old:
            entry_leave(entries, old, REPLACED)
        number = entry_make(entries, hash, cost)
        table_add(&entries.table, hash, number)
        entries.changes += 1
    if cost == 0:
        policy_append(&entries.policy, number, PINNED)
    elif queue >= PINNED:
        entries_count(entries, hash)
        entries_choose(entries, hash, cost)
        policy_append(&entries.policy, number, WINDOW)
        sketch_grow(&entries.sketch, policy_count(&entries.policy))
    else:
        policy_append(&entries.policy, number, queue)
        entry_use(entries, number)
    return number


cdef inline void entry_use(Entries* entries, uint32_t number) noexcept nogil:
    cdef Node* node = &entries.nodes[number]
    if node.queue == PINNED:
        return
    if node.full_in != entries.sketch.era and not entries_count(entries, node.hash):
        node.full_in = entries.sketch.era
    entries_choose(entries, node.hash, node.cost)
    policy_use(&entries.policy, number)


cdef inline bint entries_count(Entries* entries, uint64_t hash) noexcept nogil:
    """Count a use in the sketch; return whether it could."""
    if not sketch_use(&entries.sketch, hash):
        return False
    if sketch_age(&entries.sketch, policy_count(&entries.policy)):
        entries_forget_full(entries)
    return True


cdef inline void entries_forget_full(Entries* entries) noexcept nogil:
    """Forget what was seen in past eras of the sketch, whose numbers come again."""
    cdef uint32_t number
    for number in range(<uint32_t> LISTS, entries.capacity):
        entries.nodes[number].full_in = 0


cdef inline void entries_choose(Entries* entries, uint64_t hash, uint64_t cost) noexcept nogil:
    if entries.chooser.is_running:
        chooser_use(&entries.chooser, &entries.policy, hash, cost)


cdef inline void entry_set_ttl(Entries* entries, uint32_t number, int64_t ttl) noexcept nogil:
    """Let an entry expire in *ttl* ns from now, or never for 0."""
    if entries.wheel == NULL:
        return
    if entries.timers[number].deadline:
        wheel_remove(entries.wheel, number)
    if ttl and ttl < INT64_MAX - entries.time:
        wheel_add(entries.wheel, number, entries.time + ttl)


cdef inline bint entry_is_over(Entries* entries, uint32_t number, int64_t now) noexcept nogil:
    cdef int64_t deadline = entries.timers[number].deadline
    return deadline != 0 and deadline <= now


cdef inline void entry_lease(Entries* entries, uint32_t number) noexcept nogil:
    entries.nodes[number].leases += 1
    entries.leases += 1


cdef inline void entry_release(Entries* entries, uint32_t number) noexcept nogil:
    cdef Node* node = &entries.nodes[number]
    node.leases -= 1
    entries.leases -= 1
    if node.leases == 0 and node.state == RETIRED:
        entries.retired -= 1
        entry_retire(entries, number, node.cause)


# Leaving

cdef inline void entry_leave(Entries* entries, uint32_t number, int cause) noexcept nogil:
    """Take a live entry out of everything that leads to it."""
    cdef Node* node = &entries.nodes[number]
    table_remove(&entries.table, node.hash, number)
    entries.changes += 1
    if node.queue != LISTS:
        policy_remove(&entries.policy, number)
    if entries.wheel != NULL and entries.timers[number].deadline:
        wheel_remove(entries.wheel, number)
    entry_retire(entries, number, cause)


cdef inline void entry_retire(Entries* entries, uint32_t number, int cause) noexcept nogil:
    """Let an entry that nothing leads to wait for its last lease, or for the listener."""
    cdef Node* node = &entries.nodes[number]
    node.cause = cause
    if node.leases:
        node.state = RETIRED
        entries.retired += 1
        return
    node.state = LEAVING
    node.next = 0
    if entries.leaving:
        entries.nodes[entries.last_leaving].next = number
    else:
        entries.leaving = number
    entries.last_leaving = number
    entries.exits[cause] += 1


cdef inline void entries_make_room(Entries* entries, uint32_t kept) noexcept nogil:
    cdef int moves = 0
    cdef uint32_t victim = policy_victim(&entries.policy, kept, &moves)
    while victim:
        chooser_fit(&entries.chooser, &entries.policy, policy_count(&entries.policy) + 1)
        entry_leave(entries, victim, EVICTED)
        victim = policy_victim(&entries.policy, kept, &moves)


cdef inline uint32_t entries_sweep(Entries* entries, uint32_t limit) noexcept nogil:
    """Let up to *limit* entries leave whose tick is over; return how many did."""
    cdef uint32_t swept = 0
    cdef uint32_t number
    while swept < limit and has_deadlines(entries):
        number = wheel_expired(entries.wheel, entries.time)
        if number == 0:
            break
        entry_leave(entries, number, EXPIRED)
        swept += 1
    return swept


cdef inline void entries_leave_all(Entries* entries, int cause) noexcept nogil:
    cdef uint32_t queue = 0
    while queue < LISTS:
        while entries.nodes[queue].next != queue:
            entry_leave(entries, entries.nodes[queue].next, cause)
        queue += 1
