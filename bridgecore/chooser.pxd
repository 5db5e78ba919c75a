"""How large the window should be: shadow caches with other windows run beside the cache, on a sample of its keys.

Recency wants a large window, frequency a small one, and what is right changes with the workload. Each *arm* is a
share of the whole that the window may have. For each there is a shadow: the same policy with the same sketch, over
hashes only, as much smaller than the cache as the sample is smaller than all keys (mini-simulation [1]). After as
many uses as the cache has entries, the window takes the share of the arm with the most hits, if they are clearly
more than those of the arm in charge. Older hits fade.

A shadow costs memory for its share of the entries and a step of the policy for one use in so many. The shadows begin
with the cache, for as many entries of cost 1 as it can hold, and anew when a full one holds many more or fewer.

1. G. Einziger, O. Eytan, R. Friedman, B. Manes, Adaptive Software Cache Management, Middleware 2018
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from bridgecore.policy cimport (
    LISTS, WINDOW, Node, Policy, policy_append, policy_init, policy_remove, policy_resize, policy_use, policy_victim
)
from bridgecore.sketch cimport Sketch
from bridgecore.table cimport (
    FIRST_CELLS, Table, cell_after, cell_home, table_add, table_free, table_init, table_remove, table_reserve
)

cdef extern from *:
    bint unlikely(bint condition) noexcept nogil

cdef enum:
    ARMS = 3
    FIRST_ARM = 0
    SAMPLE_SHIFT = 20           # the hash bits that decide about the sample; those below choose counters
    FEWEST_SHADOW_ENTRIES = 48
    SAMPLE_BITS_MAX = 6         # one key in 64, as long as a shadow stays below
    MOST_SHADOW_ENTRIES = 1024
    HYSTERESIS = 200            # the best arm leads by more than one sampled use in so many


cdef struct Shadow:
    Policy policy
    Table table
    Node* nodes
    uint32_t capacity
    uint32_t free
    uint64_t hits


cdef struct Chooser:
    Shadow[3] shadows
    # What happens at few uses: behind a pointer, lest it is inlined where all the others pass.
    void (*step)(Chooser* chooser, Policy* policy, uint64_t hash, uint64_t cost) noexcept nogil
    bint is_running
    int arm                 # the one in charge
    uint64_t sample_mask    # one key in this and one more is sampled
    uint64_t entries        # that the cache had when the shadows were made
    uint64_t uses           # since the last decision
    uint64_t sampled        # the uses that the shadows saw; fades like their hits


cdef inline uint64_t share_of(uint64_t max_cost, int arm) noexcept nogil:
    """Return the cost that the window may have under an arm."""
    cdef uint64_t percent = 1 if arm == 0 else 20 if arm == 1 else 99
    cdef uint64_t share = max_cost // 100 * percent + max_cost % 100 * percent // 100
    return max(share, <uint64_t> 1)


cdef inline int sample_bits_for(uint64_t entries) noexcept nogil:
    cdef int bits = 0
    while entries >> bits > MOST_SHADOW_ENTRIES or (
        entries >> bits >= 2 * FEWEST_SHADOW_ENTRIES and bits < SAMPLE_BITS_MAX
    ):
        bits += 1
    return bits


cdef inline void shadow_free(Shadow* shadow) noexcept nogil:
    table_free(&shadow.table)
    free(shadow.nodes)
    shadow.nodes = NULL


cdef inline bint shadow_grow(Shadow* shadow) noexcept nogil:
    cdef:
        uint32_t capacity = shadow.capacity + shadow.capacity // 2 + 16
        Node* nodes = <Node*> realloc(shadow.nodes, capacity * sizeof(Node))
        uint32_t number
    if nodes == NULL:
        return False
    shadow.nodes = nodes
    shadow.policy.nodes = nodes
    number = capacity
    while number > max(shadow.capacity, <uint32_t> LISTS):
        number -= 1
        nodes[number].next = shadow.free
        shadow.free = number
    shadow.capacity = capacity
    return True


cdef inline bint shadow_init(Shadow* shadow, Sketch* sketch, uint64_t max_cost, int arm) noexcept nogil:
    shadow.nodes = NULL
    shadow.capacity = 0
    shadow.free = 0
    shadow.hits = 0
    shadow.policy.sketch = sketch
    shadow.policy.random = 0
    policy_resize(&shadow.policy, max_cost, share_of(max_cost, arm))
    if not table_init(&shadow.table, FIRST_CELLS):
        return False
    if not shadow_grow(shadow):
        return False
    policy_init(&shadow.policy, shadow.nodes)
    return True


cdef inline uint32_t shadow_find(Shadow* shadow, uint64_t hash) noexcept nogil:
    cdef uint64_t place = cell_home(&shadow.table, hash)
    cdef uint64_t cell
    while True:
        cell = shadow.table.cells[place]
        if cell == 0:
            return 0
        if shadow.nodes[<uint32_t> cell].hash == hash:
            return <uint32_t> cell
        place = cell_after(&shadow.table, place)


cdef inline void shadow_drop(Shadow* shadow, uint32_t number) noexcept nogil:
    """Forget an entry that is in no list any more."""
    table_remove(&shadow.table, shadow.nodes[number].hash, number)
    shadow.nodes[number].next = shadow.free
    shadow.free = number


cdef inline void shadow_use(Shadow* shadow, uint64_t hash, uint64_t cost) noexcept nogil:
    """Do what a cache would that is asked for a key, and given it when it has it not."""
    cdef:
        uint32_t number = shadow_find(shadow, hash)
        uint32_t victim
        uint32_t queue
        int moves = 0
    if number:
        shadow.hits += 1
        if cost > shadow.policy.max_cost:
            policy_remove(&shadow.policy, number)
            shadow_drop(shadow, number)
            return
        if <uint64_t> shadow.nodes[number].cost != cost:
            queue = shadow.nodes[number].queue
            policy_remove(&shadow.policy, number)
            shadow.nodes[number].cost = cost
            policy_append(&shadow.policy, number, queue)
        policy_use(&shadow.policy, number)
    else:
        if cost > shadow.policy.max_cost:
            return
        if not shadow.free and not shadow_grow(shadow):
            return
        if not table_reserve(&shadow.table, shadow.policy.max_cost):
            return
        number = shadow.free
        shadow.free = shadow.nodes[number].next
        shadow.nodes[number].hash = hash
        shadow.nodes[number].cost = cost
        table_add(&shadow.table, hash, number)
        policy_append(&shadow.policy, number, WINDOW)
    while True:
        victim = policy_victim(&shadow.policy, number, &moves)
        if victim == 0:
            break
        shadow_drop(shadow, victim)


cdef inline void chooser_stop(Chooser* chooser) noexcept nogil:
    cdef int arm
    if chooser.is_running:
        chooser.is_running = False
        for arm in range(ARMS):
            shadow_free(&chooser.shadows[arm])


cdef inline void chooser_start(Chooser* chooser, Policy* policy, uint64_t entries) noexcept nogil:
    """Make the shadows of a cache of so many entries; without the memory for them its window stays as it is."""
    cdef:
        int arm
        int bits = sample_bits_for(entries)
        bint is_whole = True
    chooser_stop(chooser)
    chooser.sample_mask = (<uint64_t> 1 << bits) - 1
    chooser.entries = entries
    chooser.uses = 0
    chooser.sampled = 0
    for arm in range(ARMS):
        is_whole &= shadow_init(
            &chooser.shadows[arm], policy.sketch, max(<uint64_t> 1, policy.max_cost >> bits), arm
        )
    chooser.step = chooser_step
    chooser.is_running = True
    if not is_whole:
        chooser_stop(chooser)


cdef inline void chooser_use(Chooser* chooser, Policy* policy, uint64_t hash, uint64_t cost) noexcept nogil:
    """Take part in a use of a cache whose shadows run."""
    chooser.uses += 1
    if unlikely((hash >> SAMPLE_SHIFT & chooser.sample_mask) == 0 or chooser.uses >= chooser.entries):
        chooser.step(chooser, policy, hash, cost)


cdef inline void chooser_step(Chooser* chooser, Policy* policy, uint64_t hash, uint64_t cost) noexcept nogil:
    cdef int arm
    if (hash >> SAMPLE_SHIFT & chooser.sample_mask) == 0:
        chooser.sampled += 1
        for arm in range(ARMS):
            shadow_use(&chooser.shadows[arm], hash, cost)
    if chooser.uses >= chooser.entries:
        chooser_decide(chooser, policy)


cdef inline void chooser_decide(Chooser* chooser, Policy* policy) noexcept nogil:
    cdef:
        int best = chooser.arm
        int arm
    for arm in range(ARMS):
        if chooser.shadows[arm].hits > chooser.shadows[best].hits:
            best = arm
    if chooser.shadows[best].hits > chooser.shadows[chooser.arm].hits + chooser.sampled // HYSTERESIS:
        chooser.arm = best
        policy_resize(policy, policy.max_cost, share_of(policy.max_cost, best))
    for arm in range(ARMS):
        chooser.shadows[arm].hits = chooser.shadows[arm].hits * 9 // 10
    chooser.sampled = chooser.sampled * 9 // 10
    chooser.uses = 0


cdef inline void chooser_fit(Chooser* chooser, Policy* policy, uint64_t entries) noexcept nogil:
    """Begin anew if a cache that is full holds twice or half as many entries as it had been thought to."""
    if entries > 2 * chooser.entries or 2 * entries < chooser.entries:
        chooser_start(chooser, policy, entries)
